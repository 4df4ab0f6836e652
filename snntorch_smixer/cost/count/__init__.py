"""How `measure` counts: what is known of each tensor, what each operation does, which module is a neuron."""
