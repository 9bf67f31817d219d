// The classes that build a plan; included by fake_nvinfer.cpp. Up to the last method used.

class VTensor : public VRoot {
public:
    explicit VTensor(std::string name) : mName(std::move(name)) {}
    U(setName)
    virtual char const* getName() const noexcept { return mName.c_str(); }
    U(setDimensions) U(getDimensions)
    std::string mName;
};

class VLayer : public VRoot {
public:
    explicit VLayer(Public<VTensor>* output) : mOutput(output) {}
    U(getType) U(setName) U(getName) U(getNbInputs) U(getInput)
    virtual int32_t getNbOutputs() const noexcept { return 1; }
    virtual void* getOutput(int32_t index) const noexcept { return index == 0 ? mOutput : nullptr; }
    U(setInput)
#if MAJOR != 11
    virtual void setPrecision(int32_t type) noexcept { record("precision of " + mOutput->mImpl->mName + " " + std::to_string(type)); }
    U(getPrecision) U(precisionIsSet) U(resetPrecision)
    virtual void setOutputType(int32_t index, int32_t type) noexcept {
        record("type of " + mOutput->mImpl->mName + " " + std::to_string(index) + " " + std::to_string(type));
    }
#endif
    Public<VTensor>* mOutput;
};

class VNetworkDefinition : public VRoot {
public:
    U(addInput) U(markOutput)
#if MAJOR == 8
    U(addConvolution) U(addFullyConnected) U(addActivation) U(addPooling) U(addLRN) U(addScale) U(addSoftMax) U(addConcatenation)
    U(addDeconvolution) U(addElementWise) U(addUnary) U(addPadding) U(addShuffle)
#else
    U(addActivation) U(addLRN) U(addScale) U(addSoftMax) U(addConcatenation) U(addElementWise) U(addUnary) U(addShuffle)
#endif
    virtual int32_t getNbLayers() const noexcept { return static_cast<int32_t>(mLayers.size()); }
    virtual void* getLayer(int32_t index) const noexcept { return mLayers.at(index); }
    U(getNbInputs) U(getInput)
    virtual int32_t getNbOutputs() const noexcept { return static_cast<int32_t>(mOutputs.size()); }
    virtual void* getOutput(int32_t index) const noexcept { return mOutputs.at(index); }

    ~VNetworkDefinition() noexcept override {
        for (auto* layer : mLayers) {
            delete layer->mImpl->mOutput;
            delete layer;
        }
    }
    void add(char const* name, bool output) {
        mLayers.push_back(new Public<VLayer>("layer", new VLayer(new Public<VTensor>("tensor", new VTensor(name)))));
        if (output) mOutputs.push_back(mLayers.back()->mImpl->mOutput);
    }
    bool mMultitask = false;
    std::vector<Public<VLayer>*> mLayers;
    std::vector<Public<VTensor>*> mOutputs;
};

class VOptimizationProfile : public VRoot {
public:
#if MAJOR == 8
    virtual bool setDimensions(char const* name, int32_t select, Dims dims) noexcept { return set(name, select, dims); }
#else
    virtual bool setDimensions(char const* name, int32_t select, Dims const& dims) noexcept { return set(name, select, dims); }
#endif
    Dims mRange[3] = {};

private:
    bool set(char const* name, int32_t select, Dims const& dims) {
        if (std::strcmp(name, "slice") != 0 || select < 0 || select > 2 || dims.nbDims != 4) return false;
        mRange[select] = dims;
        return true;
    }
};

class VTimingCache : public VRoot {
public:
    explicit VTimingCache(std::string bytes) : mBytes(std::move(bytes)) {}
    virtual void* serialize() const noexcept { return host(mBytes); }
    std::string mBytes;
};

class VBuilderConfig : public VRoot {
public:
#if MAJOR == 8
    U(setMinTimingIterations) U(getMinTimingIterations)
#endif
    U(setAvgTimingIterations) U(getAvgTimingIterations) U(setEngineCapability) U(getEngineCapability)
#if MAJOR != 11
    U(setInt8Calibrator) U(getInt8Calibrator)
#endif
#if MAJOR == 8
    U(setMaxWorkspaceSize) U(getMaxWorkspaceSize)
#endif
    U(setFlags) U(getFlags) U(clearFlag)
    virtual void setFlag(int32_t flag) noexcept { record("flag " + std::to_string(flag)); }
    U(getFlag) U(setDeviceType) U(getDeviceType) U(isDeviceTypeSet) U(resetDeviceType) U(canRunOnDLA)
    virtual void setDLACore(int32_t core) noexcept { record("DLA core " + std::to_string(core)); }
    U(getDLACore)
    virtual void setDefaultDeviceType(int32_t type) noexcept { record("device type " + std::to_string(type)); }
    U(getDefaultDeviceType) U(reset) U(setProfileStream) U(getProfileStream)
    virtual int32_t addOptimizationProfile(Public<VOptimizationProfile> const* profile) noexcept {
        for (int i = 0; i < 3; ++i) mPlan.range[i] = profile->mImpl->mRange[i];
        return mPlan.profiles++;
    }
    U(getNbOptimizationProfiles) U(setProfilingVerbosity) U(getProfilingVerbosity)
#if MAJOR != 11
    U(setAlgorithmSelector) U(getAlgorithmSelector) U(setCalibrationProfile) U(getCalibrationProfile) U(setQuantizationFlags)
    U(getQuantizationFlags) U(clearQuantizationFlag) U(setQuantizationFlag) U(getQuantizationFlag)
#endif
    U(setTacticSources) U(getTacticSources)
    virtual void* createTimingCache(void const* blob, std::size_t size) const noexcept {
        return new Public<VTimingCache>("cache", new VTimingCache(std::string(static_cast<char const*>(blob), size)));
    }
    virtual bool setTimingCache(Public<VTimingCache>& cache, bool ignoreMismatch) noexcept {
        auto const& bytes = cache.mImpl->mBytes;
        record("cache of " + std::to_string(bytes.size()));
        if (ignoreMismatch || (!bytes.empty() && bytes != "measured")) return false;
        mCache = &cache;
        cache.mImpl->mBytes = "measured";
        return true;
    }
    virtual Public<VTimingCache> const* getTimingCache() const noexcept { return mCache; }
    virtual void setMemoryPoolLimit(int32_t pool, std::size_t bytes) noexcept {
        record("pool " + std::to_string(pool) + " " + std::to_string(bytes));
    }
    Plan mPlan;

private:
    Public<VTimingCache>* mCache = nullptr;
};

class VBuilder : public VRoot {
public:
#if MAJOR == 8
    U(setMaxBatchSize) U(getMaxBatchSize)
#endif
#if MAJOR != 11
    U(platformHasFastFp16) U(platformHasFastInt8)
#endif
    U(getMaxDLABatchSize)
    virtual int32_t getNbDLACores() const noexcept { return 2; }
    U(setGpuAllocator)
    virtual void* createBuilderConfig() noexcept {
        if (fails("config")) return mErrors.fail("config");
        return new Public<VBuilderConfig>("config", new VBuilderConfig);
    }
#if MAJOR == 8
    U(buildEngineWithConfig)
#endif
    virtual void* createNetworkV2(uint32_t flags) noexcept {
        if (flags != (MAJOR == 8 ? 1 : 0)) unused("createNetworkV2 with these flags");
        return new Public<VNetworkDefinition>("network", new VNetworkDefinition);
    }
    virtual void* createOptimizationProfile() noexcept {
        mProfiles.push_back(new Public<VOptimizationProfile>("profile", new VOptimizationProfile));
        return mProfiles.back();
    }
    virtual void setErrorRecorder(IErrorRecorder* recorder) noexcept { mErrors.set(recorder); }
    U(getErrorRecorder) U(reset)
#if MAJOR != 11
    U(platformHasTf32)
#endif
    virtual void* buildSerializedNetwork(Public<VNetworkDefinition>& network, Public<VBuilderConfig>& config) noexcept {
        if (fails("build")) return mErrors.fail("build");
        auto plan = config.mImpl->mPlan;
        plan.multitask = network.mImpl->mMultitask;
        return host(write(plan));
    }

    ~VBuilder() noexcept override {
        for (auto* profile : mProfiles) delete profile;
    }

private:
    Recorded mErrors;
    std::vector<Public<VOptimizationProfile>*> mProfiles;
};

class IParserError {
public:
    virtual int code() const { unused("code"); }
    virtual char const* desc() const { return "the fake knows no such model"; }
    U(file) U(line) U(func)
    virtual int node() const { return 17; }

protected:
    virtual ~IParserError() = default;
};
class ParserError : public IParserError {};

class IParser {
public:
    explicit IParser(VNetworkDefinition* network) : mNetwork(network) {}
    virtual bool parse(void const* model, std::size_t size, char const* path) noexcept {
        std::string bytes(static_cast<char const*>(model), size);
        bool slice = bytes.find("slice") != std::string::npos;
        mFailed = path || fails("parse") || !slice;
        if (mFailed) return false;
        mNetwork->mMultitask = bytes.find("lesions") != std::string::npos;
        mNetwork->add("inner", false);
        if (mNetwork->mMultitask) mNetwork->add("features", true);
        mNetwork->add(mNetwork->mMultitask ? "lesions" : "lungs", true);
        return true;
    }
    U(parseFromFile)
#if MAJOR != 11
    U(supportsModel) U(parseWithWeightDescriptors)
#endif
    U(supportsOperator)
#if MAJOR == 8
    virtual void destroy() {
        record("delete parser");
        delete this;
    }
#endif
    virtual int getNbErrors() const noexcept { return mFailed ? 1 : 0; }
    virtual IParserError const* getError(int index) const noexcept { return index == 0 ? &mError : nullptr; }
    U(clearErrors)
#if MAJOR == 8
    U(setFlags) U(getFlags) U(clearFlag) U(setFlag) U(getFlag)
    virtual ~IParser() noexcept = default;
#else
    virtual ~IParser() noexcept { record("delete parser"); }
#endif

private:
    VNetworkDefinition* mNetwork;
    bool mFailed = false;
    ParserError mError;
};
