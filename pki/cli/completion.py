"""Completion scripts, made from the parser: they cannot name a verb that does not exist."""

from __future__ import annotations

import argparse
from collections.abc import Mapping

from pki.cli.grammar import DEFAULTS, spellings

_BASH = """\
# bash completion of trove-pki. Load it: source <(trove-pki completion bash)
_trove_pki() {{
    local word path="" index
    local current="${{COMP_WORDS[COMP_CWORD]}}"
    for ((index = 1; index < COMP_CWORD; index++)); do
        word="${{COMP_WORDS[index]}}"
        case " ${{_trove_pki_words["_$path"]-}} " in
            *" $word "*) [[ $word == -* ]] || path="${{path:+$path }}$word" ;;
        esac
    done
    COMPREPLY=($(compgen -W "${{_trove_pki_words["_$path"]-}}" -- "$current"))
    [[ ${{#COMPREPLY[@]}} -gt 0 || $current == -* ]] || COMPREPLY=($(compgen -f -- "$current"))
}}
declare -gA _trove_pki_words=(
{words}
)
complete -F _trove_pki trove-pki
"""
_ZSH = """\
#compdef trove-pki
# zsh completion of trove-pki. Load it: source <(trove-pki completion zsh)
_trove_pki() {{
    local word place=""
    local -A known
    known=(
{words}
    )
    for word in "${{(@)words[2,CURRENT-1]}}"; do
        if [[ $word != -* && " ${{known[_$place]}} " == *" $word "* ]]; then
            place="${{place:+$place }}$word"
        fi
    done
    compadd -- ${{=known[_$place]}}
    [[ $PREFIX == -* ]] || _files
}}
compdef _trove_pki trove-pki
"""


def bash(parser: argparse.ArgumentParser) -> str:
    # The empty path is the top, and bash refuses an empty key: hence the underscore.
    lines = [f'    ["_{path}"]="{" ".join(words)}"' for path, words in _words(parser).items()]
    return _BASH.format(words="\n".join(lines))


def zsh(parser: argparse.ArgumentParser) -> str:
    lines = [f'        "_{path}" "{" ".join(words)}"' for path, words in _words(parser).items()]
    return _ZSH.format(words="\n".join(lines))


def _words(parser: argparse.ArgumentParser) -> Mapping[str, list[str]]:
    """What may follow each beginning of a command."""
    shared = [f"--{name.replace('_', '-')}" for name in DEFAULTS] + ["--no-wait"]
    words: dict[str, list[str]] = {"": list(shared)}
    for spelling in spellings(parser):
        for depth in range(len(spelling.path)):
            place = words.setdefault(" ".join(spelling.path[:depth]), [])
            if spelling.path[depth] not in place:
                place.append(spelling.path[depth])
        own: list[str] = []
        for action in spelling.arguments:
            own += action.option_strings
            if action.choices is not None and not action.option_strings:
                own += [str(choice) for choice in action.choices]
        words[" ".join(spelling.path)] = [*own, *shared, "--help"]
    return words
