"""Every ailment that the doctor knows, once: how bad it is, what is wrong, and what to do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

Severity = Literal["critical", "warning", "info"]


@dataclass(frozen=True, slots=True)
class Ailment:
    """``diagnosis`` may hold names of facts in braces, which its finding fills in."""

    severity: Severity
    title: str
    diagnosis: str
    cure: str


AILMENTS: Final[Mapping[str, Ailment]] = {
    # loading
    "download-cut": Ailment(
        "critical",
        "The download of the model is cut",
        "The line to the model hub breaks while the weights are fetched.",
        "Start again: what was fetched is kept. If it is always cut at once, look at proxies and at the "
        "machine's network, or copy the model folder here and give it with --model.",
    ),
    "hub-unreachable": Ailment(
        "critical",
        "The model hub does not answer",
        "No connection to the hub, or it answers with errors: no network, a proxy, a hub that is down.",
        "Check the network and MODELSCOPE_ENDPOINT (curl the address); without a network give a local folder "
        "with --model.",
    ),
    "disk-full": Ailment(
        "critical",
        "No room on the disk for the model",
        "The disk that holds the model cache was full while files were written.",
        "Free space there (df -h), or put the cache elsewhere with --cache-dir; then start again.",
    ),
    "file-damaged": Ailment(
        "critical",
        "A file of the model is damaged",
        "Size, checksum or content of a model file is not what it should be: a cut copy, a bad disk or a "
        "broken transfer.",
        "A file from the hub is fetched anew by itself; if it returns, suspect disk, memory or a proxy. A "
        "local folder has to be copied again.",
    ),
    "model-not-found": Ailment(
        "critical",
        "There is no such model",
        "The id given with --model is not on the hub, or the folder does not exist: no retry mends it.",
        "Correct --model (OFA_MODEL): 'demo', a folder, or an id such as "
        "iic/ofa_visual-entailment_snli-ve_large_en.",
    ),
    "device-missing": Ailment(
        "critical",
        "The device asked for is not there",
        "--device names a GPU that torch does not see: no driver, a CPU build of torch, or a wrong number.",
        "nvidia-smi; install the driver and a CUDA build of torch, or use --device auto or cpu.",
    ),
    "dependency-missing": Ailment(
        "critical",
        "A package is missing",
        "A Python package the service needs is not installed, or is broken.",
        "Install requirements.txt into the environment that runs the service (make setup).",
    ),
    "dtype-unsupported": Ailment(
        "critical",
        "The device cannot compute in that precision",
        "--dtype names a precision the device does not have.",
        "Use --dtype fp32 or bf16 on a CPU; fp16 needs a GPU.",
    ),
    "model-unsupported": Ailment(
        "critical",
        "The model cannot be served",
        "Configuration or weights are of a kind this service would compute wrongly, so it refuses them.",
        "Use an OFA visual-entailment model, or --backend modelscope.",
    ),
    "load-failed": Ailment(
        "critical",
        "The model could not be loaded",
        "Loading failed for a reason the lines below tell.",
        "Free memory if they speak of memory; else report the lines.",
    ),
    "converted-not-kept": Ailment(
        "info",
        "Converted weights could not be kept",
        "There was no room, no right or no memory to write them beside the fetched models.",
        "Nothing is wrong but that each start is slow: free space there (df -h), or --converted-cache off.",
    ),
    # time
    "latency-drift": Ailment(
        "warning",
        "Like questions take longer than they did",
        "The model took {before} s at first and takes {after} s now for questions of the same kind on "
        "{device}, {ratio} times as long: not more work, but a slower machine.",
        "Look for who else uses the CPU or GPU (top, nvidia-smi), for throttling by heat or power, for swap "
        "(free, vmstat); then at --threads. A restart helps only if memory had grown.",
    ),
    "timeouts-long-text": Ailment(
        "warning",
        "Long texts run into the time limit",
        "{count} requests timed out, with a median of {slow} characters; those answered had {fast}.",
        "Lower --max-chars, raise --timeout, or compute on a faster device.",
    ),
    "timeouts-large-picture": Ailment(
        "warning",
        "Large pictures run into the time limit",
        "{count} requests timed out, with pictures of {slow} megapixels at the median; those answered had "
        "{fast}. Reading a picture is done before the model sees it.",
        "Lower --max-pixels, have clients send smaller pictures (480 pixels a side are used), or give the "
        "process more CPU.",
    ),
    "overload": Ailment(
        "warning",
        "More questions than can be answered",
        "Up to {peak} requests a minute were turned away or timed out waiting for others.",
        "Clients should honour Retry-After; else a faster device, more instances, or fewer users. A longer "
        "--queue-size only makes them wait longer.",
    ),
    "clock-jump": Ailment(
        "warning",
        "The clock of the machine jumped",
        "The set clock moved by {jump} s against the one that no setting moves: it was set, or the machine "
        "slept.",
        "Run a time daemon (chrony, systemd-timesyncd). The service itself measures by the other clock; "
        "times in the logs are off around then.",
    ),
    "standstill": Ailment(
        "warning",
        "The process stood still",
        "For {gap} s it wrote nothing though it has to once a minute, and went on afterwards: stopped by a "
        "signal, starved of CPU, or held by disk or swap.",
        "Look at the machine at that time: load, swap, the kernel's log; who may send signals to it.",
    ),
    # memory
    "memory-creep": Ailment(
        "warning",
        "The process grows",
        "Resident memory went from {before} MiB to {after} MiB in {minutes} min and still rises: a leak.",
        "Set --max-rss, so that it restarts in order before the machine is full; report it with this log.",
    ),
    "gpu-memory-full": Ailment(
        "warning",
        "The GPU's memory runs out",
        "Computations ran out of GPU memory; requests were answered all the same, by smaller batches or on "
        "the CPU.",
        "nvidia-smi: who else is on the card? Else a smaller --max-batch, --dtype bf16, or a smaller model.",
    ),
    "time-on-cpu": Ailment(
        "warning",
        "It computes on the CPU in place of the GPU",
        "For {seconds} s in all the model was on the CPU for want of GPU memory: right answers, but slow.",
        "Free the card; it goes back by itself.",
    ),
    "memory-full": Ailment(
        "critical",
        "The machine's memory runs out",
        "Requests were answered with an error because no memory was left for them.",
        "Give the machine or the cgroup more memory, or use a smaller model, --dtype bf16 or a smaller "
        "--queue-size.",
    ),
    "memory-limit": Ailment(
        "warning",
        "The memory limit was reached",
        "Memory went over --max-rss or --max-gpu-memory; the process left in order and was to be restarted.",
        "If it returns often: a higher limit or a smaller --queue-size, and report what grows.",
    ),
    "oom-killed": Ailment(
        "critical",
        "The kernel killed the process for want of memory",
        "The kernel's OOM killer ended it.",
        "Give the machine or the cgroup more memory, or a smaller model; --max-rss restarts in order first.",
    ),
    # device
    "device-lost": Ailment(
        "critical",
        "The CUDA context was lost",
        "A kernel failed in a way that only a new process mends; the process left with exit code 71.",
        "If it returns: nvidia-smi -q (ECC, Xid), the kernel's log, the driver; or --device cpu.",
    ),
    "scores-not-finite": Ailment(
        "critical",
        "The model's scores are no numbers",
        "Scores were NaN or infinite: a precision too small for the weights, or faulty memory.",
        "Try --dtype fp32; --verify full checks the weights; then suspect the device.",
    ),
    "probe-unstable": Ailment(
        "critical",
        "The probe was answered wrongly",
        "The same small question got another answer than at first, or no number.",
        "The model is loaded anew by itself, once. If it returns, memory or device are faulty: --dtype fp32, "
        "--device cpu, the card's ECC counters.",
    ),
    "orphaned": Ailment(
        "warning",
        "A cancelled computation did not stop at once",
        "It blocked the model for longer than --cancel-grace.",
        "If it is often, the device or its driver is slow to answer; see --cancel-grace.",
    ),
    # processes
    "reader-stuck": Ailment(
        "warning",
        "A process that reads pictures does not end or start",
        "It was killed and is still there after 10 s, or no other one can be started: fewer pictures are "
        "read at once, and none when the last one is gone.",
        "The kernel's log (dmesg), swap and network disks; memory and processes left to the user "
        "(ulimit -u). ./guardian.sh restart gives other readers.",
    ),
    "hung": Ailment(
        "critical",
        "The process hung",
        "A computation never stopped, or nothing of the process answered any more: stuck in native code, or "
        "stopped by a signal. It was ended and started again.",
        "Read the post-mortem and stalled.txt, thread `engine` first. Else another device or dtype.",
    ),
    "killed": Ailment(
        "warning",
        "The process was killed",
        "A signal that nobody can refuse ended it (SIGKILL), and not the guardian's own.",
        "Find who: an operator, a container's limit, the kernel for want of memory (dmesg).",
    ),
    "crashed": Ailment(
        "critical",
        "The process crashed in native code",
        "A signal of the processor's ended it: a fault in a driver or a native package.",
        "console.log has the stacks; check the driver and the wheels, and the machine's memory.",
    ),
    "ended-from-outside": Ailment(
        "warning",
        "Somebody ended the process",
        "It ended in order, with exit code 0, though the guardian had not asked it to; it was started again.",
        "To end it for good: ./guardian.sh stop.",
    ),
    "unhealthy": Ailment(
        "critical",
        "It ran and could not answer",
        "The process answered, but no inference was seen to work for UNHEALTHY_LIMIT; it was restarted.",
        "The line holds the last health answer: look at `inference` and `gpu` there.",
    ),
    "start-stuck": Ailment(
        "critical",
        "It did not start up",
        "Loading stood still, or took longer than it may.",
        "The line of /startupz in it says at what: network, disk, hub. If it is only slow: START_TIMEOUT.",
    ),
    "restart-loop": Ailment(
        "critical",
        "It is restarted again and again",
        "{count} restarts, three or more of them within 15 minutes.",
        "The other findings say why; mend that first.",
    ),
    "gave-up": Ailment(
        "critical",
        "The guardian gave up",
        "Too many restarts in a row failed. Nothing runs now.",
        "Mend what the other findings say, then ./guardian.sh start.",
    ),
    "halted": Ailment(
        "critical",
        "The guardian halted",
        "The configuration is wrong, and no restart would mend it. Nothing runs now.",
        "Mend what the other findings or the lines below it say, then ./guardian.sh start.",
    ),
    "undead": Ailment(
        "critical",
        "A process cannot be killed",
        "It sits in the kernel (state D): a driver, or a network disk that is gone.",
        "The kernel's log; often only a reboot helps.",
    ),
    "guardian-ended": Ailment(
        "critical",
        "The guardian ended by itself",
        "The instance may run on, and nobody watches it.",
        "./guardian.sh start adopts it; report the line.",
    ),
    "died-silently": Ailment(
        "warning",
        "A process ended without a word",
        "The log begins anew though the process before had not said that it ends: it was killed or it "
        "crashed, and no guardian saw how.",
        "Run it under guardian.sh, which tells; look for the kernel's OOM killer (dmesg).",
    ),
    "port-taken": Ailment(
        "critical",
        "Another program has the port",
        "A port of the service is taken by another program.",
        "End that one, or choose other ports with --port and --health-port.",
    ),
    "two-instances": Ailment(
        "critical",
        "Two instances want one port or one run directory",
        "Another instance of this service already uses it: one that was started by hand, perhaps.",
        "End one of them (./guardian.sh stop; the line names the process), or give each its ports and its "
        "OFA_RUN_DIR.",
    ),
    "setting-refused": Ailment(
        "critical",
        "A setting is not allowed",
        "A flag or an environment variable has a value that the service refuses; the line says which.",
        "Correct it as the line says. A value that begins with tcp:// was set by Kubernetes for a Service of "
        "that name: put enableServiceLinks: false into the pod's spec.",
    ),
    # the logs and our own mistakes
    "log-gap": Ailment(
        "warning",
        "Log lines were lost",
        "{lost} lines could not be written: the disk under the logs was full, read-only, blocked or gone.",
        "Free space there, or see to the disk; the service goes on without its logs.",
    ),
    "log-moved": Ailment(
        "info",
        "Another program moved or deleted a log",
        "The file was opened again each time, and nothing was lost.",
        "Nothing, if that is logrotate. If the file was deleted to free space: --log-max-bytes and "
        "--log-backups bound what the logs take.",
    ),
    "run-dir-unwritable": Ailment(
        "critical",
        "The run directory cannot be written",
        "The user of the service has no right to, or the file system is mounted read-only.",
        "Give that user the right (chown), or another folder with --run-dir (OFA_RUN_DIR).",
    ),
    "uploads-no-room": Ailment(
        "warning",
        "No room for uploads",
        "The disk with the temporary files was full, so pictures could not be taken.",
        "Free space there (df -h /tmp), or set TMPDIR to a folder on a larger disk.",
    ),
    "descriptors-exhausted": Ailment(
        "warning",
        "File descriptors ran out",
        "Connections could not be accepted, as the process had no descriptor left for them.",
        "Raise the hard limit (ulimit -Hn, LimitNOFILE=), and see who holds so many connections (ss -tn).",
    ),
    "unforeseen": Ailment(
        "warning",
        "An error nobody foresaw",
        "Something happened that should not be possible; WHERE says in which line.",
        "Report the line.",
    ),
    # now
    "not-answering": Ailment(
        "critical",
        "It does not answer",
        "web_app.pid names a process that lives, but its health port does not answer.",
        "./guardian.sh status; with a guardian it is restarted by itself.",
    ),
    "unhealthy-now": Ailment(
        "critical",
        "It is not healthy now",
        "The health endpoint says: {said}.",
        "docs/troubleshooting.md says what each word means; the log's last lines say why.",
    ),
    "degraded-now": Ailment(
        "warning",
        "It computes on the CPU now",
        "The health endpoint says: {said}.",
        "Free the GPU's memory; it goes back by itself.",
    ),
    "resources-short": Ailment(
        "warning",
        "Memory or disk run short",
        "The health endpoint says: {said}.",
        "Free some, before requests or logs are lost.",
    ),
    "log-failing": Ailment(
        "warning",
        "Log lines cannot be written now",
        "The health endpoint says: {said}.",
        "ENOSPC: free space under the logs. EROFS: the disk was mounted read-only, often after an error that "
        "the kernel's log tells. BLOCKED: the disk does not answer.",
    ),
}
