//! Bounds of a network's file: what no network of ours comes near, and what memory and time can bear if a file is made to harm.

/// Bytes of a file. ResNet50 in single precision has 102 MB, the full 3-D U-Net 128 MB.
pub(crate) const MODEL_BYTES_MAX: u64 = 256 << 20;

/// Nodes, and initializers, of a file: the zoo's networks have about 260 nodes. One takes some hundred bytes once read.
pub(crate) const NODES_MAX: usize = 10_000;

/// Inputs or outputs of a node, and numbers of an attribute.
pub(crate) const OPERANDS_MAX: usize = 1024;

/// Dimensions of a tensor: a 3-D convolution's weights have 5.
pub(crate) const AXES_MAX: usize = 8;

/// Layers: planning recurses once a layer, and the paper's largest network has about 100.
pub(crate) const LAYERS_MAX: usize = 2_000;

/// Channels of a value. The widest is the input of Multitask-Latent's head: 585 cells × 256 channels.
pub(crate) const CHANNELS_MAX: usize = 1 << 18;

/// Channels of all values together: each may bring a scale and a shift. The zoo's networks have 20 000, ResNet50 50 000.
pub(crate) const CHANNELS_SUM_MAX: usize = 1 << 20;

/// Weights of all convolutions and matrices together, outputs filled up to blocks of 16: 1 GiB in single precision. The largest is
/// Multitask-Latent's head, 585 · 256 · 1024 = 1.5 · 10⁸. Counted by node: many may share an initializer, and each is packed by itself.
pub(crate) const WEIGHTS_MAX: usize = 1 << 28;

/// Values of the maps of a plan, channels filled up to blocks of 16: 2 GiB. A 3-D U-Net on 160³ voxels keeps a tenth of that.
pub(crate) const VALUES_MAX: usize = 1 << 29;

/// Multiply-adds and comparisons of one run on the typical size that a file is tried with when it is loaded: a core's 10 s. The zoo's networks
/// take 0.8 · 10⁹, a 3-D U-Net on 64³ voxels 3 · 10¹⁰.
pub(crate) const WORK_MAX: usize = 1 << 40;
