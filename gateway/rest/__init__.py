"""The REST API: authenticate, validate, call, and answer in the shapes of OpenStack Trove.

A request's path: `app` (request id, errors) -> `router` (who calls, for which project) ->
`routes/` (one file per resource) -> `control_plane` (the conductor and the task manager).
Nothing is held between requests.
"""
