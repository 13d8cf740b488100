"""The platform's logic: plain Python that runs, and is tested, without Airflow."""
