"""Is a feature implicitly learned by a task: baselines, statistics, a study of encoders, cues, reports and a page."""
