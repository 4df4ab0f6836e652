"""Stand-ins for upstream spiking transformers, written from what is known of them; none of their code is copied.

Plain torch modules that never heard of this package. ``tests.fakes.zoo.FAKES`` lists them.
"""
