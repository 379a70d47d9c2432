"""The RPC kit every process shares; knows no domain and opens no database."""
