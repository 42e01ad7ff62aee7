"""Convert weights: Hugging Face to Megatron-Core and back."""
