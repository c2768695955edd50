"""What each ailment is called in Chinese. The English words, by which they are known, are in findings.py."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple


class Words(NamedTuple):
    """What is wrong in a few words, the same in a sentence or two, and what to do."""

    title: str
    diagnosis: str
    cure: str


CHINESE: Final[Mapping[str, Words]] = {
    # loading
    "download-cut": Words(
        "模型的下载中断了",
        "下载权重时，与模型 hub 的连接断开。",
        "重新启动即可，已下载的部分会保留。"
        "如果每次都立刻中断，请检查代理和本机网络，或者把模型文件夹拷到这里，用 --model 指定。",
    ),
    "hub-unreachable": Words(
        "模型 hub 没有回应",
        "连不上 hub，或者它返回错误：没有网络、代理有问题，或 hub 出了故障。",
        "检查网络和 MODELSCOPE_ENDPOINT（用 curl 访问该地址）；没有网络时，用 --model 指定本地文件夹。",
    ),
    "disk-full": Words(
        "磁盘放不下模型",
        "写文件时，模型缓存所在的磁盘满了。",
        "在那里腾出空间（df -h），或用 --cache-dir 把缓存放到别处，然后重新启动。",
    ),
    "file-damaged": Words(
        "模型的一个文件已损坏",
        "某个模型文件的大小、校验和或内容不对：没有拷完整、磁盘有坏道，或传输出错。",
        "来自 hub 的文件会自动重新下载；如果反复出现，请怀疑磁盘、内存或代理。本地文件夹需要重新拷贝。",
    ),
    "model-not-found": Words(
        "没有这个模型",
        "--model 给出的名字在 hub 上不存在，或者文件夹不存在：重试没有用。",
        "改正 --model（OFA_MODEL）："
        "'demo'、文件夹，或 iic/ofa_visual-entailment_snli-ve_large_en 这样的名字。",
    ),
    "device-missing": Words(
        "找不到所要求的设备",
        "--device 指定的 GPU，torch 看不到：没有驱动、torch 是 CPU 版，或编号不对。",
        "运行 nvidia-smi；安装驱动和 CUDA 版 torch，或用 --device auto 或 cpu。",
    ),
    "dependency-missing": Words(
        "缺少软件包",
        "服务需要的某个 Python 包没有安装，或已损坏。",
        "在运行服务的环境里安装 requirements.txt（make setup）。",
    ),
    "dtype-unsupported": Words(
        "设备不支持这种精度",
        "--dtype 指定了该设备没有的精度。",
        "在 CPU 上用 --dtype fp32 或 bf16；fp16 需要 GPU。",
    ),
    "model-unsupported": Words(
        "这个模型无法提供服务",
        "配置或权重属于本服务会算错的种类，因此拒绝加载。",
        "请用 OFA 视觉蕴含模型，或用 --backend modelscope。",
    ),
    "load-failed": Words(
        "模型没能加载",
        "加载失败，原因见下面的日志行。",
        "如果说的是内存，就腾出内存；否则请把这些行报告给开发者。",
    ),
    "converted-not-kept": Words(
        "转换后的权重没能保存",
        "写到下载的模型旁边时，没有空间、没有权限或内存不足。",
        "除了每次启动都慢以外没有问题：在那里腾出空间（df -h），或用 --converted-cache off。",
    ),
    # time
    "latency-drift": Words(
        "同样的问题比以前慢",
        "在 {device} 上，同类问题起初用 {before} 秒，现在用 {after} 秒，是原来的 {ratio} 倍："
        "不是活多了，而是机器变慢了。",
        "看看还有谁在用 CPU 或 GPU（top、nvidia-smi），是否因过热或供电而降频，"
        "是否在用交换区（free、vmstat）；再看 --threads。只有内存涨了，重启才有用。",
    ),
    "timeouts-long-text": Words(
        "长文字会超时",
        "{count} 个请求超时，文字长度的中位数是 {slow} 个字符；得到回答的是 {fast} 个。",
        "调低 --max-chars，调高 --timeout，或换更快的设备。",
    ),
    "timeouts-large-picture": Words(
        "大图片会超时",
        "{count} 个请求超时，图片的中位数是 {slow} 百万像素；"
        "得到回答的是 {fast} 百万。模型看到图片之前要先读图。",
        "调低 --max-pixels，让客户端发小一些的图片（边长 480 像素就够），或给进程更多 CPU。",
    ),
    "overload": Words(
        "问题多得答不过来",
        "每分钟最多有 {peak} 个请求被拒绝，或在排队时超时。",
        "客户端应遵守 Retry-After；"
        "否则换更快的设备、增加实例，或减少用户。调大 --queue-size 只会让他们等得更久。",
    ),
    "clock-jump": Words(
        "机器的时钟跳变了",
        "可设置的时钟相对于不受设置影响的时钟移动了 {jump} 秒：有人改了时间，或机器休眠过。",
        "运行校时服务（chrony、systemd-timesyncd）。服务自己按另一个时钟计时；那段时间日志里的时间不准。",
    ),
    "standstill": Words(
        "进程停顿过",
        "它每分钟都该写日志，却有 {gap} 秒什么也没写，之后又继续了："
        "被信号暂停、抢不到 CPU，或被磁盘或交换区拖住。",
        "查看当时的机器：负载、交换区、内核日志；谁能给它发信号。",
    ),
    # memory
    "memory-creep": Words(
        "进程占用的内存一直在涨",
        "常驻内存在 {minutes} 分钟里从 {before} MiB 涨到 {after} MiB，而且还在涨：内存泄漏。",
        "设置 --max-rss，让它在机器内存耗尽之前有序重启；并连同这份日志报告给开发者。",
    ),
    "gpu-memory-full": Words(
        "显存不够用",
        "计算时显存耗尽；这些请求仍然得到了回答，靠的是更小的批次或 CPU。",
        "运行 nvidia-smi，看还有谁在用这块卡。否则用更小的 --max-batch、--dtype bf16 或更小的模型。",
    ),
    "time-on-cpu": Words(
        "本该用 GPU，却在用 CPU 计算",
        "因为显存不足，模型累计有 {seconds} 秒在 CPU 上：回答正确，但慢。",
        "腾出显存，它会自己回去。",
    ),
    "memory-full": Words(
        "机器的内存不够用",
        "没有剩余内存，请求只得到了错误。",
        "给机器或 cgroup 更多内存，或用更小的模型、--dtype bf16 或更小的 --queue-size。",
    ),
    "memory-limit": Words(
        "达到了内存上限",
        "内存超过了 --max-rss 或 --max-gpu-memory；进程有序退出，等待重启。",
        "如果经常出现：调高上限或调小 --queue-size，并报告是什么在增长。",
    ),
    "oom-killed": Words(
        "内核因内存不足杀死了进程",
        "进程被内核的 OOM killer 结束。",
        "给机器或 cgroup 更多内存，或用更小的模型；设置 --max-rss 可以让它先有序重启。",
    ),
    # device
    "device-lost": Words(
        "CUDA 上下文丢失",
        "某个内核函数失败，只有新进程才能恢复；进程以退出码 71 退出。",
        "如果反复出现：nvidia-smi -q（ECC、Xid）、内核日志、驱动；或用 --device cpu。",
    ),
    "scores-not-finite": Words(
        "模型给出的分数不是数字",
        "分数是 NaN 或无穷大：精度对这些权重来说太低，或内存有故障。",
        "试试 --dtype fp32；用 --verify full 检查权重；再怀疑设备。",
    ),
    "probe-unstable": Words(
        "探测的回答不对",
        "同一个小问题得到了与最初不同的回答，或得到的不是数字。",
        "模型会自动重新加载一次。"
        "如果再次出现，说明内存或设备有故障：--dtype fp32、--device cpu，查看显卡的 ECC 计数。",
    ),
    "orphaned": Words(
        "取消的计算没有马上停下",
        "它占住模型的时间超过了 --cancel-grace。",
        "如果经常出现，说明设备或驱动反应慢；见 --cancel-grace。",
    ),
    # processes
    "reader-stuck": Words(
        "读图进程结束不了，或启动不了",
        "它被强制结束后 10 秒仍未消失，或者新的启动不了：能同时读的图片变少，一个都不剩时就读不了图片。",
        "查看内核日志（dmesg）、交换区和网络磁盘；看看该用户还有多少内存和进程可用（ulimit -u）。"
        "./guardian.sh restart 会换上新的读图进程。",
    ),
    "hung": Words(
        "进程卡死了",
        "有计算一直不停，或整个进程都没有回应：卡在本机代码里，或被信号暂停。它已被结束并重新启动。",
        "先看事后报告（postmortem）和 stalled.txt，从线程 `engine` 看起。否则换设备或精度。",
    ),
    "killed": Words(
        "进程被杀死了",
        "一个无法拒绝的信号（SIGKILL）结束了它，而且不是守护脚本发的。",
        "找出是谁：管理员、容器的限额，还是内核因内存不足（dmesg）。",
    ),
    "crashed": Words(
        "进程在本机代码里崩溃了",
        "处理器的信号结束了它：驱动或本机软件包有错误。",
        "console.log 里有调用栈；检查驱动和安装包，以及机器的内存。",
    ),
    "ended-from-outside": Words(
        "有人结束了进程",
        "守护脚本没有要求，它却有序退出（退出码 0）；已重新启动。",
        "要真正停掉它：./guardian.sh stop。",
    ),
    "unhealthy": Words(
        "它在运行，却答不了问题",
        "进程有回应，但在 UNHEALTHY_LIMIT 时间内没有一次推理成功；已重启。",
        "那一行里有最后一次健康状况：看其中的 `inference` 和 `gpu`。",
    ),
    "start-stuck": Words(
        "它没能启动完成",
        "加载停滞不前，或超过了允许的时间。",
        "那一行里的 /startupz 说明停在哪里：网络、磁盘还是 hub。如果只是慢：START_TIMEOUT。",
    ),
    "restart-loop": Words(
        "它一次又一次地重启",
        "共 {count} 次重启，其中三次或更多发生在 15 分钟之内。",
        "其他诊断结果说明了原因，先解决那些。",
    ),
    "gave-up": Words(
        "守护脚本放弃了",
        "连续多次重启失败。现在什么都没有在运行。",
        "先解决其他诊断结果所说的问题，再运行 ./guardian.sh start。",
    ),
    "halted": Words(
        "守护脚本停下了",
        "配置有误，重启没有用。现在什么都没有在运行。",
        "先解决其他诊断结果或它下面几行所说的问题，再运行 ./guardian.sh start。",
    ),
    "undead": Words(
        "有进程杀不掉",
        "它停在内核里（状态 D）：驱动的问题，或网络磁盘已经断开。",
        "查看内核日志；往往只有重启机器才有用。",
    ),
    "guardian-ended": Words(
        "守护脚本自己结束了",
        "实例也许还在运行，但没有人看管。",
        "运行 ./guardian.sh start 会接管它；请把那一行报告给开发者。",
    ),
    "died-silently": Words(
        "有进程一声不响地结束了",
        "日志重新开始，而之前的进程没有说过要结束：它被杀死或崩溃了，又没有守护脚本看到经过。",
        "用 guardian.sh 来运行，它会说明原因；查看内核的 OOM killer（dmesg）。",
    ),
    "port-taken": Words(
        "端口被别的程序占用",
        "服务的一个端口被别的程序占着。",
        "结束那个程序，或用 --port 和 --health-port 换端口。",
    ),
    "two-instances": Words(
        "两个实例要用同一个端口或同一个运行目录",
        "本服务的另一个实例已经在用它：也许是手工启动的。",
        "结束其中一个（./guardian.sh stop；那一行里有进程号），或给它们各自的端口和 OFA_RUN_DIR。",
    ),
    "setting-refused": Words(
        "有一项设置不被接受",
        "某个选项或环境变量的值被服务拒绝；那一行说明是哪一个。",
        "按那一行所说的改正。以 tcp:// 开头的值是 Kubernetes 为同名的 Service 设置的："
        "在 pod 的 spec 里写 enableServiceLinks: false。",
    ),
    # the logs and our own mistakes
    "log-gap": Words(
        "丢失了日志行",
        "有 {lost} 行没能写下：日志所在的磁盘满了、只读、没有响应或不见了。",
        "在那里腾出空间，或检查磁盘；没有日志时服务照样运行。",
    ),
    "log-moved": Words(
        "别的程序移走或删除了日志",
        "每次都重新打开了文件，没有丢失内容。",
        "如果是 logrotate，就不用管。"
        "如果是为了腾空间而删除：--log-max-bytes 和 --log-backups 限定了日志占用的大小。",
    ),
    "run-dir-unwritable": Words(
        "运行目录不可写",
        "运行服务的用户没有权限，或文件系统是只读挂载的。",
        "给该用户权限（chown），或用 --run-dir（OFA_RUN_DIR）指定另一个文件夹。",
    ),
    "uploads-no-room": Words(
        "没有空间接收上传",
        "临时文件所在的磁盘满了，图片收不下来。",
        "在那里腾出空间（df -h /tmp），或把 TMPDIR 设为更大磁盘上的文件夹。",
    ),
    "descriptors-exhausted": Words(
        "文件描述符用完了",
        "进程没有剩余的描述符，有连接没能接受。",
        "提高硬限制（ulimit -Hn、LimitNOFILE=），看看谁占着这么多连接（ss -tn）。",
    ),
    "unforeseen": Words(
        "出现了没有预料到的错误",
        "发生了本不该发生的事；WHERE 说明在哪一行代码。",
        "请把那一行报告给开发者。",
    ),
    # now
    "not-answering": Words(
        "它没有回应",
        "web_app.pid 里的进程还活着，但健康端口没有回应。",
        "运行 ./guardian.sh status；有守护脚本时会自动重启。",
    ),
    "unhealthy-now": Words(
        "它现在不健康",
        "健康接口说：{said}。",
        "每个词的含义见 docs/troubleshooting.md；日志的最后几行说明原因。",
    ),
    "degraded-now": Words(
        "它现在在用 CPU 计算",
        "健康接口说：{said}。",
        "腾出显存，它会自己回去。",
    ),
    "resources-short": Words(
        "内存或磁盘快用完了",
        "健康接口说：{said}。",
        "趁请求或日志还没有丢失，先腾出一些。",
    ),
    "log-failing": Words(
        "现在写不了日志",
        "健康接口说：{said}。",
        "ENOSPC：给日志所在的磁盘腾出空间。EROFS：磁盘变成了只读，往往是出错之后，见内核日志。"
        "BLOCKED：磁盘没有响应。",
    ),
}
