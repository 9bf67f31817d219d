//! Numeric kernels: resampling, window, streamed pyramid max-pooling (CPU reference).
