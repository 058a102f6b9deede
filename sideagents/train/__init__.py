"""Training that needs no environment: a supervised loop, pretraining of bases, distillation, linear probes."""
