"""Airflow's SDK without an Airflow: an empty folder of its own."""

from tests.dags import airflow_home

airflow_home.for_this_process()
