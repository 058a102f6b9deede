"""Tasks of language: readers of GLUE and SQuAD, and the metrics that they are judged by."""
