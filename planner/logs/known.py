"""The failures that are known: how each is worded, by version, what it means and what to do.

A new failure is one entry of FAILURES. Order is precedence: a sentence that says more comes before one that only
passes it on, so the sampler's own message is above the out-of-memory error that caused it, and what may also be a
harmless warning is last.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

About = Literal["memory", "model", "hub", "gpu", "distributed", "host", "flags", "build", "python"]


@dataclass(frozen=True)
class Sign:
    """A wording: the literal it is found by, and its details as named groups."""

    literal: str
    regex: re.Pattern[str]


def _s(literal: str, regex: str | None = None) -> Sign:
    return Sign(literal, re.compile(re.escape(literal) if regex is None else regex))


@dataclass(frozen=True, kw_only=True)
class Failure:
    """One kind of failure. `cause` and `fix` may name groups of its signs, in parentheses where one may be missing."""

    code: str
    about: About
    signs: tuple[Sign, ...]
    cause: str
    fix: str
    flag: str | None = None
    after_start: bool = False
    """Whether it also happens to an engine that has started."""
    ends_engine: bool = True
    """Whether the engine ends with it; False: requests fail, and it serves on."""
    mirrors: str = ""


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a GPU can run out of memory: the same error, told apart by the functions of its traceback."""

    code: str
    where: str
    frames: re.Pattern[str]
    cause: str
    fix: str
    flag: str


_NUM = r"-?\d[\d,]{0,20}(?:\.\d{1,20})?"
OUT_OF_MEMORY = (
    _s(
        "out of memory",
        r"(?:OutOfMemoryError: |[Ee]rror: |: )?(?:CUDA|HIP|XPU) (?:error: )?out of memory\.?(?: Tried to "
        rf"allocate (?P<tried>{_NUM} [KMGT]iB)\.)?(?: GPU (?P<device>\d{{1,3}}) has a total capac?ity of "
        rf"(?P<total>{_NUM} GiB) of which (?P<free>{_NUM} \w{{3,5}}) is free)?",
    ),
    _s("OutOfMemoryError"),
    _s("CUBLAS_STATUS_ALLOC_FAILED"),
)


def _frames(*functions: str) -> re.Pattern[str]:
    return re.compile(rf"\bin (?:{'|'.join(functions)})\b")


FAILURES: tuple[Failure, ...] = (
    # --- memory: vLLM's own sentences
    Failure(
        code="no_cache_blocks",
        about="memory",
        flag="--gpu-memory-utilization",
        signs=(_s("No available memory for the cache blocks"),),
        cause="Weights, peak activation and CUDA graphs take all of the memory that vLLM was allowed: nothing is left "
        "for the KV cache.",
        fix="Give vLLM a larger share, need less beside the cache, or spread the model over more GPUs.",
        mirrors="worker/worker.py 0.6-0.10 (V0); v1/core/kv_cache_utils.py 0.7-0.32; kv_cache_planning.py 0.33",
    ),
    Failure(
        code="kv_too_small_for_one_request",
        about="memory",
        flag="--max-model-len",
        signs=(
            _s(
                " GiB KV cache is needed",
                rf"max seq len \((?P<length>\d{{1,12}})\), \(?(?P<needed>{_NUM}) GiB KV cache "
                rf"is needed, which is larger than the available KV cache memory \((?P<available>{_NUM}) GiB",
            ),
            _s(
                " can be stored in KV cache (",
                r"max seq len \((?P<length>\d{1,12})\) is larger than the maximum number "
                r"of tokens that can be stored in KV cache \((?P<tokens>\d{1,12})\)",
            ),
            # A terminal may have broken the sentence anywhere behind its beginning.
            _s("To serve at least one request with the model", r"max seq len \((?P<length>\d{1,12})\)"),
        ),
        cause="One request of full length ({length} tokens) needs more KV cache than there is. vLLM does not start "
        "when it could not serve a single request.",
        fix="Allow shorter requests, or make room for the cache.",
        mirrors="worker/worker.py raise_if_cache_size_invalid 0.6-0.10; v1/core/kv_cache_utils.py 0.8-0.32; "
        "kv_cache_planning.py 0.33",
    ),
    Failure(
        code="cannot_auto_fit",
        about="memory",
        flag="--gpu-memory-utilization",
        signs=(_s("Cannot auto-fit max_model_len"),),
        cause="--max-model-len auto found no length that fits: there is no room for a KV cache at all.",
        fix="Give vLLM a larger share, or need less beside the cache.",
        mirrors="v1/core/kv_cache_utils.py 0.14-0.32; kv_cache_planning.py 0.33",
    ),
    Failure(
        code="free_memory_below_requested",
        about="memory",
        flag="--gpu-memory-utilization",
        signs=(
            _s(
                "less than desired GPU memory utilization",
                rf"\((?P<free>{_NUM})/(?P<total>{_NUM}) GiB\) on startup "
                rf"is less than desired GPU memory utilization \((?P<share>{_NUM}), (?P<requested>{_NUM}) GiB\)",
            ),
        ),
        cause="Other programs hold part of the GPU: {free} of {total} GiB are free, and vLLM was told to take "
        "{requested} GiB.",
        fix="Stop the other program (nvidia-smi names it; a vLLM that crashed may still hold its memory), or ask for "
        "a smaller share.",
        mirrors="v1/worker/gpu_worker.py 0.9-0.17; v1/worker/utils.py 0.18-0.33",
    ),
    Failure(
        code="memory_profiling_error",
        about="memory",
        signs=(
            _s(
                "Error in memory profiling",
                rf"Error in memory profiling\.?(?: Initial free memory (?P<before>{_NUM})"
                rf"(?: GiB)?, current free memory (?P<after>{_NUM}))?",
            ),
        ),
        cause="The GPU had more free memory after the profile run ({after}) than before it ({before}): another "
        "program released memory meanwhile, so vLLM could not tell what is its own.",
        fix="Start again once the other program has ended; two engines that share a card must start one after the "
        "other.",
        mirrors="worker/worker.py _assert_memory_footprint_increased_during_profiling 0.6-0.10; "
        "v1/worker/gpu_worker.py 0.8-0.33",
    ),
    Failure(
        code="oom_sampler_warmup",
        about="memory",
        flag="--max-num-seqs",
        signs=(
            _s("warming up sampler with ", r"warming up sampler with (?P<requests>\d{1,9}) dummy requests"),
            _s("warming up pooler ", r"warming up pooler .{0,80}?with (?P<requests>\d{1,9}) dummy requests"),
        ),
        cause="Sampling for {requests} requests at once (max_num_seqs) needs several copies of the logits, {requests} "
        "x vocabulary, and the GPU had no room for them.",
        fix="Lower --max-num-seqs, or leave more of the GPU outside vLLM's share.",
        mirrors="v1/worker/gpu_model_runner.py _dummy_sampler_run, _dummy_pooler_run 0.8-0.33",
    ),
    Failure(
        code="killed_host_oom",
        about="memory",
        after_start=True,
        signs=(
            _s("OOMKilled"),
            _s("killed by SIGKILL by OOM killer"),
            _s("Out of memory: Killed process"),
            _s("oom-kill:"),
            _s("oom_reaper"),
            _s("running low on memory", r"killed due to the node running low on memory"),
            _s("Killed", r"^(?:.{0,60}: line \d+: +\d+ )?Killed\b"),
            _s("code=137"),
            _s("code 137"),
            _s("exit status 137"),
            _s("exitCode: 137"),
            _s("Failed core proc(s): {", r"Failed core proc\(s\): \{[^\n}]{0,300}: -9\b"),
            _s("xit code: -9"),
            _s("exitcode: -9"),
            _s("exitcode -9"),
            _s("worker died (-9)"),
            _s("signal 9", r"\bsignal 9\b"),
            _s("SIGKILL", r"(?:exit|kill|died|terminated)[^\n]{0,60}SIGKILL"),
            _s("Cannot allocate memory"),
            _s("DefaultCPUAllocator: can't allocate memory"),
            _s("MemoryError", r"\bMemoryError\b"),
        ),
        cause="The process was killed from outside, as the kernel does when the machine or the container has run out "
        "of main memory. It is not the GPU's memory.",
        fix="Raise the container's memory limit. Weights pass through main memory while they load (about one "
        "checkpoint shard a GPU), and --swap-space, --cpu-offload-gb and --kv-offloading-size stay there.",
        mirrors="kernel, docker, kubernetes; v1/engine/utils.py `Failed core proc(s)` 0.9-0.33",
    ),
    # --- the model
    Failure(
        code="architecture_not_inspected",
        about="model",
        signs=(
            _s("failed to be inspected", r"Model architectures \[(?P<what>[^\]]{0,200})\] failed to be inspected"),
            _s("Error in inspecting model architecture", r"inspecting model architecture '(?P<what>\w{1,100})'"),
        ),
        cause="vLLM has the architecture {what}, but importing its code failed: this installation is broken.",
        fix="The import error is above in the log, mostly a missing or mismatched package (transformers, torch, "
        "flash-attn); install vLLM anew in an environment of its own.",
        mirrors="model_executor/models/registry.py 0.6-0.33",
    ),
    Failure(
        code="extension_not_built",
        about="python",
        signs=(
            _s("No module named 'vllm._C'"),
            _s("No module named 'vllm._moe_C'"),
        ),
        cause="vLLM's compiled extension is missing, so that no model class can be loaded.",
        fix="Install the wheel for this platform; started inside a clone of vLLM's repository, Python imports the "
        "sources there, which are not built: change the folder, or build them (`pip install -e .`).",
        mirrors="_custom_ops.py, platforms/__init__.py 0.5-0.33",
    ),
    Failure(
        code="architecture_unknown",
        about="model",
        signs=(
            _s(
                "are not supported for now",
                r"Model architectures \[(?P<what>[^\]]{0,200})\] are not supported "
                r"for now",
            ),
            _s("has no vLLM implementation and", r"(?P<what>\w{1,100}) has no vLLM implementation and"),
            _s("was supported in vLLM until", r"Model architecture (?P<what>\w{1,100}) was supported in vLLM until"),
            _s(
                "is not supported in-tree anymore",
                r"Model architecture (?P<what>\w{1,100}) is not supported "
                r"in-tree",
            ),
            _s(
                "implementation of",
                r"Transformers implementation of '?(?P<what>\w{1,100})'? is not compatible with vLLM",
            ),
        ),
        cause="{version} does not know the architecture {what}.",
        fix="Use a vLLM that has it (newer as a rule; the message says which, where it was removed).",
        mirrors="model_executor/models/registry.py 0.6-0.33; model_loader/utils.py 0.8-0.10",
    ),
    Failure(
        code="weights_do_not_match",
        about="model",
        signs=(
            _s(
                "KeyError: ",
                r"KeyError: '(?P<what>[\w.]{3,200}\.(?:\w{0,40}(?:weight|bias|scale|zeros)\w{0,40}|g_idx))'",
            ),
            _s(
                "There is no module or parameter named",
                r"There is no module or parameter named '(?P<what>[\w.]{1,200})'",
            ),
            _s("weights were not initialized from checkpoint"),
            _s("Attempted to load weight ("),
        ),
        cause="The checkpoint's tensors are not those that this vLLM's model class has ({what}): another version of "
        "the architecture, a quantization that was made otherwise, or an adapter merged in.",
        fix="Use the vLLM version that the model's card names, or the checkpoint's original; a quantized checkpoint "
        "must say in quantization_config which modules it left alone.",
        mirrors="model_executor/models/utils.py AutoWeightsLoader and load_weights of the classes, 0.6-0.33",
    ),
    Failure(
        code="bad_config",
        about="model",
        signs=(
            _s("No model architectures are specified"),
            _s("Expecting value: line 1 column 1 (char 0)"),
            _s("It looks like the config file at", r"It looks like the config file at '(?P<what>[^']{1,200})' is not"),
        ),
        cause="A config file of the model is empty, cut short, or names no architecture.",
        fix="Download the model anew (an interrupted download or a git-lfs pointer leaves such files), and look at its "
        "config.json.",
        mirrors="config/model.py 0.8-0.33; json",
    ),
    Failure(
        code="model_type_unknown",
        about="model",
        signs=(
            _s(
                "but Transformers does not recognize this architecture",
                r"model type [`'](?P<what>[\w.-]{1,80})[`'] but Transformers does not recognize",
            ),
            _s("Unrecognized model in", r"Unrecognized model in (?P<what>\S{1,200}?)\. Should have"),
        ),
        cause="The installed transformers does not know the model type {what}.",
        fix="Upgrade transformers, or use a vLLM whose own release includes a transformers that has it.",
        mirrors="transformers configuration_auto.py, through transformers_utils/config.py of every version",
    ),
    Failure(
        code="trust_remote_code",
        about="model",
        flag="--trust-remote-code",
        signs=(
            _s(
                "trust_remote_code=True",
                r"(?:[Pp]lease pass the argument|set the option|consider setting)[^\n]{0,40}"
                r"trust_remote_code=True",
            ),
            _s("contains custom code which must be executed"),
            _s("requires you to execute the configuration file"),
            _s(
                "--trust-remote-code",
                r"by setting `?trust_remote_code=True`? in LLM or using the `?--trust-remote-code",
            ),
        ),
        cause="The model brings its own Python code, which vLLM runs only when told to.",
        fix="Read that code, then add --trust-remote-code; or use a checkpoint in a format that vLLM knows by itself.",
        mirrors="transformers dynamic_module_utils.py; transformers_utils/config.py, tokenizer.py",
    ),
    Failure(
        code="no_weights",
        about="model",
        signs=(
            _s(
                "Cannot find any model weights with",
                r"Cannot find any model weights with "
                r"[`'](?P<what>[^`'\n]{1,300})",
            ),
        ),
        cause="There are no weight files that vLLM can load in {what}.",
        fix="Check that the download is complete and in safetensors or .bin format.",
        mirrors="model_executor/model_loader/default_loader.py 0.6-0.33",
    ),
    Failure(
        code="no_tokenizer",
        about="model",
        flag="--tokenizer",
        signs=(
            _s("Can't load tokenizer for", r"Can't load tokenizer for '?(?P<what>[^'\n]{1,300}?)'?\. If you"),
            _s("Unable to load vocabulary from file"),
            _s("No tokenizer file found in directory"),
            _s("Failed to load the tokenizer"),
            _s("Couldn't instantiate the backend tokenizer"),
            _s("Tokenizer class ", r"Tokenizer class \w{1,80} does not exist or is not currently imported"),
        ),
        cause="The model's tokenizer could not be loaded: its files are missing or need a newer transformers.",
        fix="Put tokenizer.json (or the vocabulary files) beside the weights, or name another with --tokenizer.",
        mirrors="transformers tokenization_utils_base.py; transformers_utils/tokenizer.py 0.6-0.11; tokenizers/ "
        "0.12-0.33",
    ),
    Failure(
        code="no_chat_template",
        about="model",
        flag="--chat-template",
        after_start=True,
        ends_engine=False,
        signs=(
            _s("default chat template is no longer allowed"),
            _s(
                "chat template",
                r"(?:looks like a file path, but it failed to be opened|No chat template available|"
                r"does not (?:have|define) a chat template|tokenizer\.chat_template is not set)",
            ),
        ),
        cause="The model's tokenizer has no chat template, so chat requests cannot be turned into a prompt.",
        fix="Pass one with --chat-template FILE.jinja, or use /v1/completions.",
        mirrors="entrypoints/chat_utils.py 0.6-0.15; renderers/hf.py 0.16-0.33",
    ),
    # --- the Hub
    Failure(
        code="gated_model",
        about="hub",
        signs=(
            _s("You are trying to access a gated repo"),
            _s("Cannot access gated repo"),
            _s("GatedRepoError"),
            _s("is restricted", r"Access to model (?P<what>[\w./-]{1,200}) is restricted"),
            _s("not in the authorized list"),
            _s("Invalid user token"),
            _s("gated repositories", r"403[^\n]{0,200}gated repositories"),
        ),
        cause="The model is gated: Hugging Face gives it only to accounts that have accepted its terms.",
        fix="Accept the terms on the model's page, and pass a token of that account as HF_TOKEN (in a container too).",
        mirrors="transformers utils/hub.py, huggingface_hub utils/_http.py",
    ),
    Failure(
        code="no_network",
        about="hub",
        signs=(
            _s("We couldn't connect to 'https://huggingface.co'"),
            _s("LocalEntryNotFoundError"),
            _s("OfflineModeIsEnabled"),
            _s("outgoing traffic has been disabled"),
            _s("Max retries exceeded with url", r"huggingface\.co[^\n]{0,300}Max retries exceeded"),
            _s("Temporary failure in name resolution"),
            _s("Name or service not known"),
        ),
        cause="The model is not on this machine, and Hugging Face could not be reached.",
        fix="Give the container access to the network, or download the model beforehand and pass its folder "
        "(HF_HUB_OFFLINE=1 only works with a complete cache).",
        mirrors="transformers utils/hub.py, huggingface_hub file_download.py",
    ),
    Failure(
        code="model_not_found",
        about="hub",
        signs=(
            _s(
                "is not a local folder and is not a valid model identifier",
                r"(?P<what>\S{1,200}) is not a local folder",
            ),
            _s(
                "Repository Not Found for url",
                r"Repository Not Found for url: \S{0,60}huggingface\.co/(?P<what>[\w./-]{1,200})",
            ),
            _s("RepositoryNotFoundError"),
            _s("RevisionNotFoundError"),
            _s(
                "Invalid repository ID or local directory specified",
                r"Invalid repository ID or local directory specified:? ?'?(?P<what>[^'\n]{0,200})",
            ),
            _s("Repo id must be in the form", r"Repo id must be in the form[^\n]{0,80}: '(?P<what>[^'\n]{1,300})'"),
            _s(
                "does not appear to have a file named config.json",
                r"(?P<what>\S{1,200}) does not appear to have a file named "
                r"config\.json",
            ),
        ),
        cause="There is no such model: not as a folder here, and not on Hugging Face under this name ({what}).",
        fix="Check the spelling. A folder must hold config.json and be mounted into the container; a private model "
        "needs HF_TOKEN.",
        mirrors="transformers_utils/config.py 0.8-0.33; transformers, huggingface_hub",
    ),
    # --- GPU, driver, CUDA
    Failure(
        code="driver_too_old",
        about="gpu",
        signs=(
            _s(
                "driver on your system is too old",
                r"NVIDIA driver on your system is too old(?: \(found version (?P<what>\d{1,6})\))?",
            ),
            _s("CUDA driver version is insufficient for CUDA runtime version"),
            _s("PTX was compiled with an unsupported toolchain"),
            _s("forward compatibility was attempted on non supported HW"),
            _s("unsatisfied condition: cuda"),
        ),
        cause="The NVIDIA driver is older than the CUDA that this vLLM was built for.",
        fix="Upgrade the driver (`nvidia-smi` shows the newest CUDA it supports), or use a vLLM image for an older "
        "CUDA.",
        mirrors="torch/cuda/__init__.py, c10/cuda, nvidia-container-cli",
    ),
    Failure(
        code="driver_mismatch",
        about="gpu",
        signs=(
            _s("unsupported display driver / cuda driver combination"),
            _s("Driver/library version mismatch"),
            _s("Error 803", r"\bError 803\b"),
            _s("Error 804", r"\bError 804\b"),
        ),
        cause="The container's CUDA driver library and the host's kernel driver are of different versions.",
        fix="Restart the machine after a driver update; in a container, make sure that libcuda comes from the host "
        "(unset LD_LIBRARY_PATH entries for /usr/local/cuda/compat).",
        mirrors="c10/cuda/CUDAFunctions.cpp",
    ),
    Failure(
        code="no_kernel_for_gpu",
        about="gpu",
        signs=(
            _s("no kernel image is available for execution on the device"),
            _s(
                "is not compatible with the current PyTorch installation",
                r"(?P<what>[\w .-]{3,60}) with CUDA capability sm_\d{2,3} is not compatible",
            ),
            _s("named symbol not found", r"CUDA error: named symbol not found"),
        ),
        cause="This build of vLLM or PyTorch has no kernels for this GPU ({gpu}): it is too old, or newer than the "
        "build.",
        fix="Use a vLLM built for the card's compute capability: RTX 50 and B200 need CUDA 12.8 builds (0.9 or "
        "newer); Volta and older cards need an old version or a build from source.",
        mirrors="torch/cuda/__init__.py, c10/cuda",
    ),
    Failure(
        code="no_gpu",
        about="gpu",
        signs=(
            _s("No CUDA GPUs are available"),
            _s("Failed to infer device type"),
            _s("no CUDA-capable device is detected"),
            _s("Found no NVIDIA driver on your system"),
            _s("could not select device driver"),
            _s("NVML Shared Library Not Found"),
            _s("invalid device ordinal"),
        ),
        cause="vLLM sees no GPU (or fewer than it was told to use).",
        fix="Start the container with --gpus all (the NVIDIA container toolkit must be installed), and check "
        "CUDA_VISIBLE_DEVICES; in Kubernetes, request nvidia.com/gpu.",
        mirrors="config.py, platforms/cuda.py; torch/cuda/__init__.py; docker",
    ),
    Failure(
        code="gpu_hardware",
        about="gpu",
        after_start=True,
        signs=(
            _s("uncorrectable ECC error"),
            _s("GPU has fallen off the bus"),
            _s("CUDA error: unknown error"),
            _s("GPU is lost"),
            _s("Xid", r"NVRM: Xid"),
        ),
        cause="The GPU itself reports a fault.",
        fix="`dmesg` and `nvidia-smi -q` say more; reset the GPU or restart the machine, and have the card checked.",
        mirrors="c10/cuda; kernel",
    ),
    # --- flags
    Failure(
        code="heads_not_divisible",
        about="flags",
        flag="--tensor-parallel-size",
        signs=(
            _s(
                "must be divisible by tensor parallel size",
                r"attention heads \((?P<heads>\d{1,6})\) must be divisible by "
                r"tensor parallel size \((?P<tp>\d{1,6})\)",
            ),
        ),
        cause="{heads} attention heads cannot be shared out evenly over {tp} GPUs.",
        fix="Use a tensor parallel size that divides {heads}, and --pipeline-parallel-size for the rest.",
        mirrors="config.py 0.6-0.9; config/model.py 0.10-0.33",
    ),
    Failure(
        code="shard_not_divisible",
        about="flags",
        flag="--tensor-parallel-size",
        signs=(
            _s(
                "is not divisible by ",
                r"(?:input_size_per_partition|output_size_per_partition|output_partition_size|"
                r"intermediate_size_per_partition)\s*=\s*(?P<size>\d{1,9})[^\n]{0,80} is not divisible by",
            ),
            _s("is not divisible by weight quantization block_"),
        ),
        cause="At this tensor parallel size a quantized layer is cut inside a group or block of its quantization.",
        fix="Use a smaller tensor parallel size (and pipeline parallelism for the rest), or another quantization.",
        mirrors="quantization/utils/marlin_utils.py, fp8_utils.py; distributed/utils.py 0.33",
    ),
    Failure(
        code="max_model_len_too_large",
        about="flags",
        flag="--max-model-len",
        signs=(
            _s(
                "is greater than the derived max_model_len",
                r"max_model_len \((?P<given>\d{1,12})\) is greater than the "
                r"derived max_model_len \([^\n=]{0,80}=(?P<derived>\d{1,12})",
            ),
        ),
        cause="--max-model-len {given} is more than the model was made for ({derived}).",
        fix="Pass at most {derived}; beyond it, only with RoPE scaling in --hf-overrides.",
        mirrors="config.py _get_and_verify_max_len 0.6-0.9; config/model.py 0.10-0.33",
    ),
    Failure(
        code="connector_without_hybrid_cache",
        about="flags",
        flag="--disable-hybrid-kv-cache-manager",
        signs=(
            _s(
                "does not support HMA but HMA is enabled",
                r"Connector (?P<what>\w{1,80}) does not support HMA but HMA is enabled",
            ),
        ),
        cause="The KV connector {what} cannot move a hybrid model's KV cache, whose layers are in several groups.",
        fix="Pass --disable-hybrid-kv-cache-manager (every layer is then counted as full attention), or another "
        "connector.",
        mirrors="distributed/kv_transfer/kv_connector/factory.py 0.11-0.33",
    ),
    Failure(
        code="quantization_needs_capability",
        about="flags",
        flag="--quantization",
        signs=(
            _s(
                "not supported for the current GPU",
                r"quantization method (?P<what>[\w-]{1,60}) is not supported for the "
                r"current GPU\. Minimum capability: (?P<needed>\d{2,3})\. Current capability: (?P<have>\d{2,3})",
            ),
        ),
        cause="{what} needs compute capability {needed} (x10); this GPU has {have}.",
        fix="Use a checkpoint in a quantization that this GPU supports, or another GPU.",
        mirrors="model_loader/weight_utils.py 0.6; config.py 0.7-0.9; config/vllm.py 0.10-0.33",
    ),
    Failure(
        code="quantization_unknown",
        about="flags",
        flag="--quantization",
        signs=(
            _s("Unknown quantization method", r"Unknown quantization method: (?P<what>[\w-]{1,60})"),
            _s(
                "does not match the quantization method specified",
                r"\((?P<what>[\w-]{1,60})\) does not match the "
                r"quantization method specified",
            ),
        ),
        cause="The quantization {what} is not one that this vLLM can use for this checkpoint.",
        fix="Leave --quantization out: vLLM reads it from the checkpoint. If that fails too, the version is too old "
        "or has dropped the method.",
        mirrors="config.py _verify_quantization 0.6-0.9; config/model.py 0.10-0.33",
    ),
    Failure(
        code="bfloat16_needs_ampere",
        about="flags",
        flag="--dtype",
        signs=(
            _s(
                "Bfloat16 is only supported on GPUs with compute capability",
                r"Your (?:b')?(?P<what>[^\n]{1,60}?)'? GPU",
            ),
        ),
        cause="{what} is older than Ampere and has no bfloat16.",
        fix="Add --dtype half.",
        mirrors="worker/worker.py 0.6-0.10; v1/worker/gpu_worker.py 0.8-0.10; platforms/cuda.py 0.11-0.33",
    ),
    Failure(
        code="lora_rank",
        about="flags",
        flag="--max-lora-rank",
        ends_engine=False,
        signs=(_s("is greater than max_lora_rank", r"LoRA rank (?P<rank>\d{1,6}) is greater than max_lora_rank"),),
        cause="The LoRA adapter has rank {rank}, more than the slots that vLLM prepared.",
        fix="Add --max-lora-rank {rank} (memory for every slot grows with it).",
        after_start=True,
        mirrors="lora/models.py, lora/peft_helper.py 0.6-0.33",
    ),
    Failure(
        code="unknown_flag",
        about="flags",
        signs=(
            _s("error: unrecognized arguments", r"unrecognized arguments: (?P<what>[^\n]{1,200})"),
            _s(
                "unexpected keyword argument",
                r"EngineArgs\.__init__\(\) got an unexpected keyword argument '(?P<what>\w{1,80})'",
            ),
            _s("error: argument ", r"error: argument (?P<what>[^\n]{1,200})"),
        ),
        cause="This vLLM has no such flag or value: {what}.",
        fix="Flags come and go between versions: `vllm serve --help=all` lists those of this one.",
        mirrors="argparse; engine/arg_utils.py",
    ),
    # --- several GPUs
    Failure(
        code="not_enough_gpus",
        about="distributed",
        flag="--tensor-parallel-size",
        signs=(
            _s(
                "larger than the number of available GPUs",
                r"World size \((?P<wanted>\d{1,6})\) is larger than the number "
                r"of available GPUs \((?P<have>\d{1,6})\)",
            ),
            _s(
                "Cannot provide a placement group",
                r"Cannot provide a placement group(?: requiring (?P<wanted>[\d.]{1,8}) GPUs)?",
            ),
            _s(
                "GPUs exceeds the total number of available",
                r"Error: The number of required GPUs exceeds the total number "
                r"of available GPUs",
            ),
        ),
        cause="The launch asks for more GPUs than Ray or this machine has ({wanted} wanted, {have} there).",
        fix="Lower --tensor-parallel-size or --pipeline-parallel-size, or add nodes; `ray status` shows what Ray sees "
        "(GPUs held by a crashed job count as used). On several nodes set VLLM_HOST_IP on each.",
        mirrors="config.py, config/parallel.py; executor/ray_utils.py 0.6-0.9; v1/executor/ray_utils.py 0.10-0.33",
    ),
    Failure(
        code="shared_memory_too_small",
        about="host",
        after_start=True,
        signs=(
            _s(
                "/dev/shm",
                r"/dev/shm/[^\n]{0,200}No space left on device|(?:creating|attaching to|extend) shared memory "
                r"segment "
                r"[^\n]{0,60}/dev/shm|shared memory[^\n]{0,120}/dev/shm|No space left on device[^\n]{0,120}/dev/shm",
            ),
            _s("unable to open shared memory object"),
            _s("Bus error", r"\bBus error\b"),
            _s("SIGBUS"),
            _s("insufficient shared memory"),
        ),
        cause="/dev/shm is too small: worker processes and NCCL exchange data there, and a container has 64 MiB by "
        "default.",
        fix="docker run --ipc=host (or --shm-size=10g); in Kubernetes, mount an emptyDir of medium Memory at /dev/shm.",
        mirrors="NCCL misc/shmutils.cc; torch DataLoader; distributed/device_communicators/shm_broadcast.py",
    ),
    Failure(
        code="disk_full",
        about="host",
        signs=(_s("No space left on device"), _s("Disk quota exceeded"), _s("Not enough free disk space")),
        cause="The disk is full: weights and compiled kernels go to the cache folder.",
        fix="Free space, or point HF_HOME and VLLM_CACHE_ROOT to a larger disk.",
        mirrors="the kernel; huggingface_hub file_download.py",
    ),
    Failure(
        code="nccl_error",
        about="distributed",
        after_start=True,
        signs=(
            _s("NCCL error", r"NCCL error(?: in)?:? ?(?P<what>[^\n]{0,200})"),
            _s("ncclSystemError"),
            _s("ncclUnhandledCudaError"),
            _s("ncclInternalError"),
            _s("ncclRemoteError"),
            _s("Watchdog caught collective operation timeout"),
            _s("DistBackendError"),
            _s("Duplicate GPU detected"),
        ),
        cause="The GPUs could not talk to each other (NCCL).",
        fix="NCCL_DEBUG=INFO says why. Usual causes: /dev/shm too small (--ipc=host), peer-to-peer blocked by the "
        "IOMMU or a VM (try NCCL_P2P_DISABLE=1), the wrong network card on several nodes (NCCL_SOCKET_IFNAME, "
        "GLOO_SOCKET_IFNAME).",
        mirrors="torch ProcessGroupNCCL; distributed/device_communicators/pynccl_wrapper.py",
    ),
    # --- the host
    Failure(
        code="port_in_use",
        about="host",
        flag="--port",
        signs=(
            _s(
                "ddress already in use",
                r"\[Errno (?:98|48)\][^\n]{0,80}ddress already in use|bind on address[^\n]{0,80}address "
                r"already in use|EADDRINUSE",
            ),
        ),
        cause="Another program, perhaps an earlier vLLM, listens on the port.",
        fix="Stop it, or pass another --port.",
        mirrors="entrypoints/openai/api_server.py create_server_socket; uvicorn; torch TCPStore",
    ),
    # --- compilers
    Failure(
        code="compiler_missing",
        about="build",
        signs=(
            _s("Failed to find C compiler"),
            _s(
                "No such file or directory: '",
                r"No such file or directory: '(?P<what>(?:[^'\n]{0,200}/)?(?:ninja|nvcc|gcc|g\+\+|cc|ptxas))'",
            ),
            _s("nvcc: not found"),
            _s("Could not find nvcc"),
            _s("CUDA_HOME environment variable is not set"),
            _s("Cannot find CUDA toolkit"),
            _s("Ninja is required to load C++ extensions"),
            _s("Python.h: No such file or directory"),
            _s("cannot find -lcuda"),
        ),
        cause="Kernels are compiled at start-up (Triton, FlashInfer, torch.compile), and a compiler is missing "
        "({what}).",
        fix="Install gcc, the Python headers (python3-dev), ninja and, for FlashInfer, the CUDA toolkit; the official "
        "image vllm/vllm-openai has them. Without nvcc: VLLM_USE_FLASHINFER_SAMPLER=0 and --attention-backend "
        "FLASH_ATTN.",
        mirrors="triton runtime/build.py; flashinfer jit/cpp_ext.py; torch utils/cpp_extension.py",
    ),
    Failure(
        code="kernel_shared_memory",
        about="build",
        flag="--attention-backend",
        signs=(
            _s(
                "out of resource: shared memory",
                r"out of resource: shared memory, Required: (?P<required>\d{1,9}), Hardware limit: (?P<limit>\d{1,9})",
            ),
            _s("triton.runtime.errors.OutOfResources"),
        ),
        cause="A Triton kernel is tuned for a GPU with more shared memory: it asks for {required} bytes, this one has "
        "{limit}.",
        fix="Update vLLM, whose kernels are tuned for more cards with every release, or choose other kernels "
        "(--attention-backend; for experts another tensor parallel size, or no expert parallelism).",
        mirrors="triton/runtime/errors.py",
    ),
    Failure(
        code="kernel_compilation",
        about="build",
        flag="--enforce-eager",
        signs=(
            _s("Ninja build failed"),
            _s("ninja: build stopped"),
            _s("nvcc fatal"),
            _s("ptxas fatal"),
            _s("ptxas error"),
            _s("InductorError"),
            _s("BackendCompilerFailed"),
            _s("triton.compiler.errors.CompilationError"),
            _s("PassManager::run failed"),
            _s("torch._dynamo.exc."),
        ),
        cause="A kernel could not be compiled for this GPU.",
        fix="The compiler's own message is above. Delete ~/.cache/flashinfer, ~/.triton and "
        "~/.cache/vllm/torch_compile_cache and try again; --enforce-eager goes without torch.compile, "
        "--attention-backend chooses other kernels.",
        mirrors="flashinfer jit/cpp_ext.py; torch/_inductor; triton",
    ),
    Failure(
        code="permission_denied",
        about="host",
        signs=(
            _s(
                "Permission denied",
                r"PermissionError: \[Errno 13\] Permission denied(?:: "
                r"'(?P<what>[^'\n]{1,300})')?",
            ),
            _s(
                "There was a problem when trying to write in your cache folder",
                r"write in your cache folder \((?P<what>[^)\n]{1,300})\)",
            ),
            _s("Read-only file system"),
        ),
        cause="vLLM may not write or read a file that it needs ({what}).",
        fix="Give the user of the container its own home or cache: HOME=/tmp, HF_HOME, VLLM_CACHE_ROOT, "
        "TRITON_CACHE_DIR.",
        mirrors="the kernel; triton runtime/cache.py, huggingface_hub",
    ),
    Failure(
        code="waiting_for_gpus",
        about="distributed",
        flag="--tensor-parallel-size",
        signs=(
            _s("Waiting for creating a placement group of specs"),
            _s("No available node types can fulfill resource request"),
            _s(
                "exceeds available GPUs",
                r"Tensor parallel size \((?P<wanted>\d{1,6})\) exceeds available GPUs "
                r"\((?P<have>\d{1,6})\)",
            ),
            _s("number of required GPUs exceeds the total number"),
        ),
        cause="Ray waits for GPUs that it does not have free ({wanted} wanted, {have} there).",
        fix="`ray status` shows what Ray sees: GPUs held by a crashed job count as used, and a node may be missing. "
        "Set VLLM_HOST_IP on each node, or lower --tensor-parallel-size.",
        mirrors="executor/ray_utils.py 0.6-0.9; v1/executor/ray_utils.py 0.10-0.33 (warnings)",
    ),
    # --- Python
    Failure(
        code="main_guard",
        about="python",
        signs=(
            _s("process has finished its bootstrapping phase"),
            _s("freeze_support()"),
            _s("Cannot re-initialize CUDA in forked subprocess"),
        ),
        cause="vLLM starts its workers as new processes, which import your script again.",
        fix='Put the code that creates LLM(...) under `if __name__ == "__main__":`, and do not touch CUDA before it.',
        mirrors="multiprocessing/spawn.py; torch/cuda/__init__.py",
    ),
    Failure(
        code="broken_installation",
        about="python",
        signs=(
            _s("ModuleNotFoundError: No module named", r"No module named '(?P<what>[\w.]{1,100})'"),
            _s("undefined symbol", r"undefined symbol: (?P<what>\w{1,120})"),
            _s("cannot import name", r"ImportError: cannot import name '(?P<what>\w{1,100})'"),
            _s(
                "cannot open shared object file",
                r"ImportError: (?P<what>[\w.+-]{1,100}): cannot open shared object file",
            ),
        ),
        cause="The installation does not fit together ({what}): packages of different versions, or one that is "
        "missing.",
        fix="Install vLLM into an environment of its own, so that it brings its own torch and transformers.",
        mirrors="Python",
    ),
)

PLACES: tuple[Place, ...] = (
    Place(
        code="oom_graph_capture",
        where="capturing CUDA graphs",
        frames=_frames(
            "capture_model",
            "_capture_cudagraphs",
            "capture_graphs",
            "capture_begin",
            "capture_end",
            "profile_cudagraph_memory",
        ),
        cause="The GPU ran full while CUDA graphs were captured: before 0.20 they are no part of "
        "gpu_memory_utilization and come from what it leaves.",
        fix="Leave more of the GPU outside vLLM's share, or go without CUDA graphs.",
        flag="--gpu-memory-utilization",
    ),
    Place(
        code="oom_kv_cache",
        where="allocating the KV cache",
        frames=_frames(
            "_allocate_kv_cache",
            "_allocate_kv_cache_tensors",
            "initialize_kv_cache",
            "initialize_kv_cache_tensors",
            "initialize_cache",
            "initialize_from_config",
            "_init_cache_engine",
        ),
        cause="The KV cache that vLLM had planned could not be allocated: another program took memory after the "
        "profile run.",
        fix="Stop the other program, or ask for a smaller share.",
        flag="--gpu-memory-utilization",
    ),
    Place(
        code="oom_profile_run",
        where="the profile run",
        frames=_frames(
            "profile_run",
            "determine_available_memory",
            "determine_num_available_blocks",
            "_dummy_run",
            "_dummy_sampler_run",
        ),
        cause="The weights fit, but the profile run did not: one step of max_num_batched_tokens tokens, then sampling "
        "for max_num_seqs requests.",
        fix="Take smaller steps, or spread the model over more GPUs.",
        flag="--max-num-batched-tokens",
    ),
    Place(
        code="oom_loading",
        where="loading weights",
        frames=_frames(
            "load_model",
            "get_model",
            "initialize_model",
            "_initialize_model",
            "create_weights",
            "load_weights",
            "process_weights_after_loading",
        ),
        cause="The model's weights do not fit into the GPU.",
        fix="Spread them over more GPUs, use a quantized checkpoint, or keep part of them in main memory.",
        flag="--tensor-parallel-size",
    ),
    Place(
        code="oom_warmup",
        where="warming up",
        frames=_frames("compile_or_warm_up_model", "kernel_warmup", "warmup_kernels"),
        cause="The GPU ran full while kernels were warmed up, after the KV cache had been allocated.",
        fix="Leave more of the GPU outside vLLM's share.",
        flag="--gpu-memory-utilization",
    ),
    Place(
        code="oom_runtime",
        where="serving",
        frames=_frames("execute_model", "run_busy_loop", "_process_engine_step", "step_with_batch_queue"),
        cause="The engine had started, and a request then needed memory that nothing was left for: "
        "gpu_memory_utilization leaves too little for what is used beside it.",
        fix="Leave more of the GPU outside vLLM's share.",
        flag="--gpu-memory-utilization",
    ),
)
"""In order: a frame further up the list is the more telling one where a traceback has several."""
