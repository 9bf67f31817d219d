//! Where TensorRT's methods are: their places in the tables of virtual functions, one column a major version.
//!
//! Owns: the numbers, and which versions they hold for. Never does: call. A wrong number calls another function of the library, so nothing here
//! is guessed: each was counted from the order of declaration in `NvInferImpl.h` (classes `V…`) and `NvOnnxParser.h`; a virtual destructor
//! takes two places where it is declared (Itanium C++ ABI), and every `V…` class starts with that of `VRoot`.
//!
//! | column | headers that the numbers were counted from |
//! |---|---|
//! | `EIGHT` | 8.6; the order up to the last slot used is that of 8.4.11, so 8.5 has it too |
//! | `TEN` | 10.7; those of running an engine also 10.0.1 to 10.16 |
//! | `ELEVEN` | 11.4, RTX 1.5, 1.6 and 1.7; those of running an engine also 11.0 and 11.1 |
//!
//! RTX 1.3 and 1.4 have yet another order and are refused. The fake libraries of the tests declare the same classes in C++, so that there the
//! compiler counts.

/// Places of the methods of one major version.
#[derive(Debug)]
pub(super) struct Slots {
    /// `VRuntime::deserializeCudaEngine(void const*, size_t)`; 8 has a third argument, always null here.
    pub(super) runtime_deserialize: usize,
    /// `VRuntime::setDLACore`.
    pub(super) runtime_dla_core: usize,
    /// `VRuntime::setErrorRecorder`.
    pub(super) runtime_recorder: usize,
    /// `VCudaEngine::createExecutionContextWithoutDeviceMemory()` in 8, `createExecutionContext(strategy)` from 10 on.
    pub(super) engine_context: usize,
    /// `VCudaEngine::getDeviceMemorySize` in 8 and 10, `getDeviceMemorySizeV2` in 11.
    pub(super) engine_memory: usize,
    /// `VCudaEngine::getNbOptimizationProfiles`.
    pub(super) engine_profiles: usize,
    /// `VCudaEngine::getTensorShape`.
    pub(super) engine_shape: usize,
    /// `VCudaEngine::getTensorDataType`.
    pub(super) engine_type: usize,
    /// `VCudaEngine::getTensorIOMode`.
    pub(super) engine_mode: usize,
    /// `VCudaEngine::getProfileShape`.
    pub(super) engine_profile_shape: usize,
    /// `VCudaEngine::getNbIOTensors`.
    pub(super) engine_tensors: usize,
    /// `VCudaEngine::getIOTensorName`.
    pub(super) engine_tensor_name: usize,
    /// `VExecutionContext::setDeviceMemory(void*)`.
    pub(super) context_memory: usize,
    /// `VExecutionContext::setErrorRecorder`.
    pub(super) context_recorder: usize,
    /// `VExecutionContext::setOptimizationProfileAsync`.
    pub(super) context_profile: usize,
    /// `VExecutionContext::setInputShape`.
    pub(super) context_shape: usize,
    /// `VExecutionContext::setTensorAddress`.
    pub(super) context_address: usize,
    /// `VExecutionContext::enqueueV3`.
    pub(super) context_enqueue: usize,
    /// `VBuilder::getNbDLACores`.
    pub(super) builder_dla_cores: usize,
    /// `VBuilder::createBuilderConfig`.
    pub(super) builder_config: usize,
    /// `VBuilder::createNetworkV2`.
    pub(super) builder_network: usize,
    /// `VBuilder::createOptimizationProfile`.
    pub(super) builder_profile: usize,
    /// `VBuilder::setErrorRecorder`.
    pub(super) builder_recorder: usize,
    /// `VBuilder::buildSerializedNetwork`.
    pub(super) builder_build: usize,
    /// `VBuilderConfig::setFlag`.
    pub(super) config_flag: usize,
    /// `VBuilderConfig::setDLACore`.
    pub(super) config_dla_core: usize,
    /// `VBuilderConfig::setDefaultDeviceType`.
    pub(super) config_device: usize,
    /// `VBuilderConfig::addOptimizationProfile`.
    pub(super) config_profile: usize,
    /// `VBuilderConfig::createTimingCache`.
    pub(super) config_create_cache: usize,
    /// `VBuilderConfig::setTimingCache`.
    pub(super) config_set_cache: usize,
    /// `VBuilderConfig::getTimingCache`.
    pub(super) config_get_cache: usize,
    /// `VBuilderConfig::setMemoryPoolLimit`.
    pub(super) config_memory: usize,
    /// `VNetworkDefinition::getNbLayers`, `getLayer`, `getNbInputs`, `getInput`, `getNbOutputs`, `getOutput` follow one another from here.
    pub(super) network_layers: usize,
    /// `IParser::getNbErrors`; `getError` and `clearErrors` follow it.
    pub(super) parser_errors: usize,
    /// What deletes an `IParser`: `destroy()` in 8, where the destructor moved between 8.5 and 8.6; the deleting destructor from 10 on.
    pub(super) parser_delete: usize,
}

/// TensorRT 8.5 and 8.6.
pub(super) static EIGHT: Slots = Slots {
    runtime_deserialize: 2,
    runtime_dla_core: 3,
    runtime_recorder: 7,
    engine_context: 13,
    engine_memory: 14,
    engine_profiles: 22,
    engine_shape: 34,
    engine_type: 35,
    engine_mode: 38,
    engine_profile_shape: 44,
    engine_tensors: 45,
    engine_tensor_name: 46,
    context_memory: 11,
    context_recorder: 21,
    context_profile: 25,
    context_shape: 29,
    context_address: 32,
    context_enqueue: 44,
    builder_dla_cores: 7,
    builder_config: 9,
    builder_network: 11,
    builder_profile: 12,
    builder_recorder: 13,
    builder_build: 17,
    config_flag: 15,
    config_dla_core: 22,
    config_device: 24,
    config_profile: 29,
    config_create_cache: 44,
    config_set_cache: 45,
    config_get_cache: 46,
    config_memory: 47,
    network_layers: 17,
    parser_errors: 6,
    parser_delete: 5,
};

/// TensorRT 10.
pub(super) static TEN: Slots = Slots {
    runtime_deserialize: 3,
    runtime_dla_core: 5,
    runtime_recorder: 9,
    engine_context: 5,
    engine_memory: 7,
    engine_profiles: 10,
    engine_shape: 19,
    engine_type: 20,
    engine_mode: 23,
    engine_profile_shape: 29,
    engine_tensors: 30,
    engine_tensor_name: 31,
    context_memory: 10,
    context_recorder: 14,
    context_profile: 17,
    context_shape: 21,
    context_address: 24,
    context_enqueue: 37,
    builder_dla_cores: 5,
    builder_config: 7,
    builder_network: 8,
    builder_profile: 9,
    builder_recorder: 10,
    builder_build: 14,
    config_flag: 11,
    config_dla_core: 18,
    config_device: 20,
    config_profile: 25,
    config_create_cache: 40,
    config_set_cache: 41,
    config_get_cache: 42,
    config_memory: 43,
    network_layers: 12,
    parser_errors: 5,
    parser_delete: 9,
};

/// TensorRT 11, and TensorRT-RTX from 1.5 on.
pub(super) static ELEVEN: Slots = Slots {
    runtime_deserialize: 3,
    runtime_dla_core: 4,
    runtime_recorder: 8,
    engine_context: 5,
    engine_memory: 44,
    engine_profiles: 8,
    engine_shape: 15,
    engine_type: 16,
    engine_mode: 19,
    engine_profile_shape: 25,
    engine_tensors: 26,
    engine_tensor_name: 27,
    context_memory: 10,
    context_recorder: 13,
    context_profile: 16,
    context_shape: 20,
    context_address: 23,
    context_enqueue: 36,
    builder_dla_cores: 3,
    builder_config: 5,
    builder_network: 6,
    builder_profile: 7,
    builder_recorder: 8,
    builder_build: 11,
    config_flag: 9,
    config_dla_core: 16,
    config_device: 18,
    config_profile: 23,
    config_create_cache: 29,
    config_set_cache: 30,
    config_get_cache: 31,
    config_memory: 32,
    network_layers: 12,
    parser_errors: 3,
    parser_delete: 7,
};

/// Places that all versions share: `data` and `size` of `VHostMemory`, `serialize` of `VTimingCache`, `setDimensions` of
/// `VOptimizationProfile`, the methods of `VLayer` and `VTensor` that are used here, `parse` of `IParser`, `code` and `desc` of `IParserError`.
pub(super) mod shared {
    /// `VHostMemory::data`.
    pub(crate) const HOST_DATA: usize = 2;
    /// `VHostMemory::size`.
    pub(crate) const HOST_SIZE: usize = 3;
    /// `VTimingCache::serialize`.
    pub(crate) const CACHE_SERIALIZE: usize = 2;
    /// `VOptimizationProfile::setDimensions`.
    pub(crate) const PROFILE_DIMENSIONS: usize = 2;
    /// `VLayer::getNbOutputs`.
    pub(crate) const LAYER_OUTPUTS: usize = 7;
    /// `VLayer::getOutput`.
    pub(crate) const LAYER_OUTPUT: usize = 8;
    /// `VLayer::setPrecision`; gone in 11.
    pub(crate) const LAYER_PRECISION: usize = 10;
    /// `VLayer::setOutputType`; gone in 11.
    pub(crate) const LAYER_OUTPUT_TYPE: usize = 14;
    /// `VTensor::getName`.
    pub(crate) const TENSOR_NAME: usize = 3;
    /// `IParser::parse`.
    pub(crate) const PARSER_PARSE: usize = 0;
    /// `IParserError::desc`.
    pub(crate) const ERROR_TEXT: usize = 1;
    /// `IParserError::node`.
    pub(crate) const ERROR_NODE: usize = 5;
    /// The deleting destructor of every public class but the parser.
    pub(crate) const DELETE: usize = 1;
    /// TensorRT-RTX only: `VBuilderConfig::setNbComputeCapabilities` (counted from 1.5, 1.6 and 1.7).
    pub(crate) const RTX_CONFIG_CAPABILITIES: usize = 55;
    /// TensorRT-RTX only: `VBuilderConfig::setComputeCapability`.
    pub(crate) const RTX_CONFIG_CAPABILITY: usize = 57;
}
