"""The agent: extractor, policy, PPO, and how they are built from a configuration."""
