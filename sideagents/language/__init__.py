"""Tasks and methods of language: readers of GLUE and SQuAD, models, metrics, what a method trains."""
