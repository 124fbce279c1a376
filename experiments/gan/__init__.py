"""The paper's experiment in generative adversarial networks: MHE-GAN."""
