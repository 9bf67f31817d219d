// The classes that run a plan; included by fake_nvinfer.cpp. Up to the last method used.

class VExecutionContext : public VRoot {
public:
    explicit VExecutionContext(Plan const& plan) : mPlan(plan) {}
#if MAJOR == 8
    U(execute) U(enqueue) U(setDebugSync) U(getDebugSync) U(setProfiler) U(getProfiler) U(getEngine) U(setName) U(getName)
    virtual void setDeviceMemory(void* memory) noexcept { mMemory = memory; }
    U(getStrides) U(setOptimizationProfile) U(getOptimizationProfile) U(setBindingDimensions) U(getBindingDimensions)
    U(setInputShapeBinding) U(getShapeBinding) U(allInputDimensionsSpecified) U(allInputShapesSpecified)
    virtual void setErrorRecorder(IErrorRecorder* recorder) noexcept { mErrors.set(recorder); }
    U(getErrorRecorder) U(executeV2) U(enqueueV2)
    virtual bool setOptimizationProfileAsync(int32_t profile, void* stream) noexcept { return useProfile(profile, stream); }
    U(setEnqueueEmitsProfile) U(getEnqueueEmitsProfile) U(reportToProfiler)
    virtual bool setInputShape(char const* name, Dims const& dims) noexcept { return shape(name, dims); }
    U(getTensorShape) U(getTensorStrides)
    virtual bool setTensorAddress(char const* name, void* data) noexcept { return address(name, data); }
    U(getTensorAddress) U(setInputTensorAddress) U(inferShapes) U(setInputConsumedEvent) U(getInputConsumedEvent)
    U(getOutputTensorAddress) U(setOutputAllocator) U(getOutputAllocator) U(getMaxOutputSize) U(setTemporaryStorageAllocator)
    U(getTemporaryStorageAllocator)
    virtual bool enqueueV3(void* stream) noexcept { return run(stream); }
#else
    U(getPImpl) U(setDebugSync) U(getDebugSync) U(setProfiler) U(getProfiler) U(getEngine) U(setName) U(getName)
    virtual void setDeviceMemory(void* memory) noexcept { mMemory = memory; }
    U(getOptimizationProfile) U(allInputDimensionsSpecified)
#if MAJOR == 10
    U(allInputShapesSpecified)
#endif
    virtual void setErrorRecorder(IErrorRecorder* recorder) noexcept { mErrors.set(recorder); }
    U(getErrorRecorder) U(executeV2)
    virtual bool setOptimizationProfileAsync(int32_t profile, void* stream) noexcept { return useProfile(profile, stream); }
    U(setEnqueueEmitsProfile) U(getEnqueueEmitsProfile) U(reportToProfiler)
    virtual bool setInputShape(char const* name, Dims const& dims) noexcept { return shape(name, dims); }
    U(getTensorShape) U(getTensorStrides)
    virtual bool setTensorAddress(char const* name, void* data) noexcept { return address(name, data); }
    U(getTensorAddress) U(setInputTensorAddress) U(setOutputTensorAddress) U(inferShapes) U(setInputConsumedEvent)
    U(getInputConsumedEvent) U(getOutputTensorAddress) U(setOutputAllocator) U(getOutputAllocator) U(getMaxOutputSize)
    U(setTemporaryStorageAllocator) U(getTemporaryStorageAllocator)
    virtual bool enqueueV3(void* stream) noexcept { return run(stream); }
#endif

private:
    bool useProfile(int32_t profile, void* stream) {
        record("profile " + std::to_string(profile));
        return stream && profile > 0 && profile < mPlan.profiles;
    }

    bool shape(char const* name, Dims const& dims) {
        if (fails("shape") || std::strcmp(name, "slice") != 0 || dims.nbDims != 4) return mErrors.fail("shape");
        for (int i = 0; i < 4; ++i) {
            if (dims.d[i] < mPlan.range[0].d[i] || dims.d[i] > mPlan.range[2].d[i]) return mErrors.fail("range");
        }
        mShape = dims;
        record("shape " + text(dims));
        return true;
    }

    bool address(char const* name, void* data) {
        auto all = tensors(mPlan);
        for (std::size_t i = 0; i < all.size(); ++i) {
            if (all[i].name == name) {
                mAddresses[i] = static_cast<float*>(data);
                return true;
            }
        }
        return mErrors.fail("address");
    }

    bool run(void* stream) {
        if (fails("enqueue")) return mErrors.fail("enqueue");
        if (!stream || !mMemory || !mAddresses[0] || !mAddresses[1]) return mErrors.fail("a tensor without address");
        // The work before on this stream: the fake computes at once.
        if (void* cuda = dlopen("libcuda.so.1", RTLD_NOW | RTLD_NOLOAD)) {
            using Wait = int (*)(void*);
            if (auto wait = reinterpret_cast<Wait>(dlsym(cuda, "cuStreamSynchronize"))) wait(stream);
        }
        std::memset(mMemory, 0xa5, 1000); // scratch memory is there to be written to
        auto plane = static_cast<std::size_t>(mShape.d[2] * mShape.d[3]);
        for (Size n = 0; n < mShape.d[0]; ++n) {
            for (std::size_t i = 0; i < plane; ++i) {
                float slice = mAddresses[0][n * plane + i];
                if (!mPlan.multitask) {
                    mAddresses[1][n * plane + i] = 4.0F * slice - 2.0F;
                    continue;
                }
                for (int c = 0; c < 8; ++c) mAddresses[1][(n * 8 + c) * plane + i] = static_cast<float>(c + 1) * slice;
                mAddresses[2][n * plane + i] = 8.0F * slice - 4.0F;
            }
        }
        record("enqueue");
        return true;
    }

    Plan mPlan;
    Recorded mErrors;
    void* mMemory = nullptr;
    Dims mShape = {};
    float* mAddresses[3] = {};
};

class VCudaEngine : public VRoot {
public:
    VCudaEngine(Plan const& plan, Recorded* errors) : mPlan(plan), mTensors(tensors(plan)), mErrors(errors) {}
#if MAJOR == 8
    U(getNbBindings) U(getBindingIndex) U(getBindingName) U(bindingIsInput) U(getBindingDimensions) U(getBindingDataType)
    U(getMaxBatchSize) U(getNbLayers) U(serialize) U(createExecutionContext) U(getLocation)
    virtual void* createExecutionContextWithoutDeviceMemory() noexcept { return context(); }
    virtual std::size_t getDeviceMemorySize() const noexcept { return static_cast<int64_t>(engineMemory); }
    U(isRefittable) U(getBindingBytesPerComponent) U(getBindingComponentsPerElement) U(getBindingFormat) U(getBindingFormatDesc)
    U(getBindingVectorizedDim) U(getName)
    virtual int32_t getNbOptimizationProfiles() const noexcept { return mPlan.profiles; }
    U(getProfileDimensions) U(getProfileShapeValues) U(isShapeBinding) U(isExecutionBinding) U(getEngineCapability)
    U(setErrorRecorder) U(getErrorRecorder) U(hasImplicitBatchDimension) U(getTacticSources) U(getProfilingVerbosity)
    U(createEngineInspector)
#elif MAJOR == 10
    U(getPImpl) U(getNbLayers) U(serialize)
    virtual void* createExecutionContext(int32_t strategy) noexcept { return strategy == 2 ? context() : nullptr; }
    U(createExecutionContextWithoutDeviceMemory)
    virtual std::size_t getDeviceMemorySize() const noexcept { return static_cast<int64_t>(engineMemory); }
    U(isRefittable) U(getName)
    virtual int32_t getNbOptimizationProfiles() const noexcept { return mPlan.profiles; }
    U(getProfileTensorValues) U(getEngineCapability) U(setErrorRecorder) U(getErrorRecorder) U(hasImplicitBatchDimension)
    U(getTacticSources) U(getProfilingVerbosity) U(createEngineInspector)
#else
    U(getPImpl) U(getNbLayers) U(serialize)
    virtual void* createExecutionContext(int32_t strategy) noexcept { return strategy == 2 ? context() : nullptr; }
    U(isRefittable) U(getName)
    virtual int32_t getNbOptimizationProfiles() const noexcept { return mPlan.profiles; }
    U(getEngineCapability) U(setErrorRecorder) U(getErrorRecorder) U(getTacticSources) U(getProfilingVerbosity) U(createEngineInspector)
#endif
    virtual Dims getTensorShape(char const* name) const noexcept {
        for (auto const& tensor : mTensors) {
            if (tensor.name == name) return Dims{4, {-1, tensor.channels, -1, -1}};
        }
        return Dims{-1, {}};
    }
    virtual int32_t getTensorDataType(char const*) const noexcept { return 0; }
    U(getTensorLocation) U(isShapeInferenceIO)
    virtual int32_t getTensorIOMode(char const* name) const noexcept {
        for (auto const& tensor : mTensors) {
            if (tensor.name == name) return tensor.input ? 1 : 2;
        }
        return 0;
    }
    U(getTensorBytesPerComponent) U(getTensorComponentsPerElement) U(getTensorFormat) U(getTensorFormatDesc) U(getTensorVectorizedDim)
    virtual Dims getProfileShape(char const* name, int32_t profile, int32_t select) const noexcept {
        bool known = std::strcmp(name, "slice") == 0 && profile >= 0 && profile < mPlan.profiles && select >= 0 && select < 3;
        return known ? mPlan.range[select] : Dims{-1, {}};
    }
    virtual int32_t getNbIOTensors() const noexcept { return static_cast<int32_t>(mTensors.size()); }
    virtual char const* getIOTensorName(int32_t index) const noexcept { return mTensors.at(index).name.c_str(); }
#if MAJOR == 11
    U(getHardwareCompatibilityLevel) U(getNbAuxStreams) U(getTensorBytesPerComponentV2) U(getTensorComponentsPerElementV2)
    U(getTensorFormatV2) U(getTensorFormatDescV2) U(getTensorVectorizedDimV2) U(createSerializationConfig) U(serializeWithConfig)
    U(createRefitter) U(getStreamableWeightsSize) U(isDebugTensor) U(setWeightStreamingBudgetV2) U(getWeightStreamingBudgetV2)
    U(getWeightStreamingAutomaticBudget) U(getWeightStreamingScratchMemorySize)
    virtual int64_t getDeviceMemorySizeV2() const noexcept { return static_cast<int64_t>(engineMemory); }
#endif

private:
    void* context() {
        if (fails("context")) return mErrors->fail("context");
        return new Public<VExecutionContext>("context", new VExecutionContext(mPlan));
    }

    Plan mPlan;
    std::vector<Tensor> mTensors;
    Recorded* mErrors;
};

class VRuntime : public VRoot {
public:
#if MAJOR == 8
    virtual void* deserializeCudaEngine(void const* blob, std::size_t size, void* factory) noexcept {
        return factory ? nullptr : engine(blob, size);
    }
#else
    U(getPImpl)
    virtual void* deserializeCudaEngine(void const* blob, std::size_t size) noexcept { return engine(blob, size); }
#endif
#if MAJOR == 10
    U(deserializeCudaEngineFromStream)
#endif
    virtual void setDLACore(int32_t core) noexcept { record("runtime on DLA core " + std::to_string(core)); }
    U(getDLACore) U(getNbDLACores) U(setGpuAllocator)
    virtual void setErrorRecorder(IErrorRecorder* recorder) noexcept { mErrors.set(recorder); }

private:
    void* engine(void const* blob, std::size_t size) {
        Plan plan;
        if (fails("deserialize") || !read(blob, size, plan)) return mErrors.fail("deserialize");
        record("deserialize");
        return new Public<VCudaEngine>("engine", new VCudaEngine(plan, &mErrors));
    }

    Recorded mErrors;
};
