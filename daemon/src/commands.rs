//! One module a command; each has `Args` (parsed by clap) and `run`.
pub mod phantom;
