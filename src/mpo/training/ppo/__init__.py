"""PPO with an evolving reward (`trainer.algorithm: ppo`)."""
