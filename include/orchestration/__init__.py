"""The only room that knows Airflow: assets, defaults, forms."""
