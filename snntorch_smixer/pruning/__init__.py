"""Dynamic Spatial-Temporal Spiking Pruning (DSTSP): which steps and tokens to keep, by spike count."""
