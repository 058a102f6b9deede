"""Navigation agents: stable-baselines3 extractors and policies, PPO, behaviour cloning, evaluation, command line."""
