"""The search for a probe's best settings: many trainings by gradient descent, chosen by Optuna, trained as one."""
