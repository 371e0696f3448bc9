"""The one owner of mlflow: runs, what they log, the model registry.

Importing this package does not import mlflow, which takes 1.4 s; the first call that needs it does.
"""
