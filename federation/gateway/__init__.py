"""The gateway: the federation over HTTP, for dashboards, notebooks and browsers. It knows no Prefect; what starts flows is handed to it."""
