"""
A process gives up its rights: limits, landlock (which files it may open), seccomp (which system calls it may make).

The children of server.py call this before they touch a hostile program; nothing of it can be taken back, and what they
start inherits it. Linux on x86_64 and aarch64, by bare system calls. docs.kernel.org/userspace-api/landlock.html,
docs.kernel.org/userspace-api/seccomp_filter.html
"""
import ctypes
import errno
import functools
import os
import platform
import resource
import socket
import struct

PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS = 1, 4, 22, 38         # linux/prctl.h
LANDLOCK_CREATE_RULESET, LANDLOCK_ADD_RULE, LANDLOCK_RESTRICT_SELF = 444, 445, 446


def syscall(number, *args):
    """A system call that Python has no name for. Raises OSError."""
    result = ctypes.CDLL(None, use_errno=True).syscall(
        ctypes.c_long(number), *[ctypes.c_void_p(a) if isinstance(a, int) else a for a in args])
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def prctl(option, *args):
    """Change a property of the calling process. Raises OSError."""
    if ctypes.CDLL(None, use_errno=True).prctl(option, *args, *[0] * (4 - len(args))) < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def limit_resources(seconds, memory):
    """CPU seconds (None: no limit) and bytes of address space; files of 128 MiB, 128 of them open; no core dumps."""
    limits = {resource.RLIMIT_AS: memory, resource.RLIMIT_CPU: seconds, resource.RLIMIT_CORE: 0,
              resource.RLIMIT_FSIZE: 128 << 20, resource.RLIMIT_NOFILE: 128, resource.RLIMIT_MSGQUEUE: 0}
    for kind, value in limits.items():
        if value is not None:
            resource.setrlimit(kind, (value, value))


@functools.cache
def landlock_version():
    """0 where the kernel has no landlock."""
    try:
        return syscall(LANDLOCK_CREATE_RULESET, 0, 0, 1)                  # 1: only say the version
    except OSError:
        return 0


def landlock(readable, writable):
    """From here on only these paths and what is below them can be opened (readable ones executed, too); no TCP; no
    signals or abstract sockets to processes outside. Does what the kernel's version can, nothing where it has none."""
    version = landlock_version()
    if not version:
        return
    # 13 rights to files, then moving to another folder (version 2), truncating (3), ioctl of devices (5)
    every = sum(1 << bit for bit in range(13)) | (version >= 2) << 13 | (version >= 3) << 14 | (version >= 5) << 15
    rules = struct.pack("QQQ", every, 3 * (version >= 4), 3 * (version >= 6))   # what is denied: files, TCP, scopes
    rules = rules[:8 if version < 4 else 16 if version < 6 else 24]       # the struct grew with the versions
    ruleset = syscall(LANDLOCK_CREATE_RULESET, ctypes.create_string_buffer(rules, len(rules)), len(rules), 0)
    of_files = 1 | 2 | 4 | every & (1 << 14 | 1 << 15)                    # execute, write, read, truncate, ioctl
    for paths, rights in ((readable, 1 | 4 | 8), (writable, every)):      # execute, read, list
        for path in filter(os.path.exists, paths):
            fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
            rule = struct.pack("=Qi", rights if os.path.isdir(path) else rights & of_files, fd)
            syscall(LANDLOCK_ADD_RULE, ruleset, 1, ctypes.create_string_buffer(rule, len(rule)), 0)
            os.close(fd)
    prctl(PR_SET_NO_NEW_PRIVS, 1)
    syscall(LANDLOCK_RESTRICT_SELF, ruleset, 0)
    os.close(ruleset)


MACHINES = ("x86_64", "aarch64")
# name: number on x86_64, number on aarch64. Denied to every child...
DENIED = dict(
    ptrace=(101, 117), process_vm_readv=(310, 270), process_vm_writev=(311, 271), mount=(165, 40), umount2=(166, 39),
    unshare=(272, 97), setns=(308, 268), pivot_root=(155, 41), chroot=(161, 51), keyctl=(250, 219),
    add_key=(248, 217), request_key=(249, 218), bpf=(321, 280), perf_event_open=(298, 241), userfaultfd=(323, 282),
    io_uring_setup=(425, 425), pidfd_send_signal=(424, 424), pidfd_getfd=(438, 438), rt_sigqueueinfo=(129, 138),
    rt_tgsigqueueinfo=(297, 240), kcmp=(312, 272), open_by_handle_at=(304, 265), personality=(135, 92),
    swapon=(167, 224), reboot=(169, 142), init_module=(175, 105), finit_module=(313, 273), delete_module=(176, 106),
    kexec_load=(246, 104), kexec_file_load=(320, 294), acct=(163, 89), quotactl=(179, 60), settimeofday=(164, 170),
    clock_settime=(227, 112), sethostname=(170, 161), mknod=(133, None), mknodat=(259, 33), syslog=(103, 116),
    move_mount=(429, 429), fsopen=(430, 430), open_tree=(428, 428), mount_setattr=(442, 442), shmget=(29, 194),
    shmat=(30, 196), msgget=(68, 186), semget=(64, 190), mq_open=(240, 180), iopl=(172, None), ioperm=(173, None))
# ... and to a child that is a program: new processes and sockets, other processes' priorities and groups
ALONE = dict(fork=(57, None), vfork=(58, None), socket=(41, 198), socketpair=(53, 199), tkill=(200, 130),
             pidfd_open=(434, 434), setpriority=(141, 140), sched_setscheduler=(144, 119), sched_setparam=(142, 118),
             sched_setaffinity=(203, 122), setsid=(112, 157), setpgid=(109, 154), ioprio_set=(251, 30))


def seccomp(alone=True, may_exec=False):
    """From here on a BPF filter sees every system call. alone: one process for ever (threads are allowed), which may
    signal only itself and, without may_exec, become no other program; else (the browser) many processes, but no
    sockets other than unix ones. Raises OSError where the kernel refuses."""
    here = MACHINES.index(platform.machine())
    load, equal, any_bit, at_least, answer = 0x20, 0x15, 0x45, 0x35, 0x06
    allow, deny, absent = 0x7FFF0000, 0x00050000 | errno.EPERM, 0x00050000 | errno.ENOSYS
    program = []

    # instructions read struct seccomp_data: at 0 the call's number, at 4 the ABI, at 16 the low half of its first
    # argument; if_true, if_false: instructions to skip
    def op(code, value, if_true=0, if_false=0):
        program.append(struct.pack("HBBI", code, if_true, if_false, value))

    def deny_unless_argument(number, test, *values):
        """Call `number` passes only if its first argument is one of the values (or has the bit)."""
        op(equal, number, 0, len(values) + 3), op(load, 16)
        for left, value in zip(range(len(values), 0, -1), values):
            op(test, value, left, 0)
        op(answer, deny), op(answer, allow)

    op(load, 4), op(equal, (0xC000003E, 0xC00000B7)[here], 1, 0), op(answer, 0x80000000)     # another ABI: die
    op(load, 0)
    if here == 0:
        op(at_least, 0x40000000, 0, 1), op(answer, absent)                                   # the x32 ABI
    forbidden = DENIED | (ALONE if alone else {})
    if alone and not may_exec:
        forbidden = forbidden | dict(execve=(59, 221), execveat=(322, 281))
    for numbers in forbidden.values():
        if numbers[here] is not None:
            op(equal, numbers[here], 0, 1), op(answer, deny)
    if alone:
        op(equal, 435, 0, 1), op(answer, absent)       # clone3 hides its flags in memory; libc falls back to clone
        deny_unless_argument((56, 220)[here], any_bit, 0x10000)                              # clone: CLONE_THREAD
        deny_unless_argument((62, 129)[here], equal, os.getpid())                            # kill
        deny_unless_argument((234, 131)[here], equal, os.getpid())                           # tgkill
        deny_unless_argument((302, 261)[here], equal, 0, os.getpid())                        # prlimit64
    else:
        deny_unless_argument((41, 198)[here], equal, socket.AF_UNIX)
    op(answer, allow)
    code = ctypes.create_string_buffer(b"".join(program))
    filter_ = ctypes.create_string_buffer(struct.pack("HxxxxxxQ", len(program), ctypes.addressof(code)))
    prctl(PR_SET_NO_NEW_PRIVS, 1)
    prctl(PR_SET_SECCOMP, 2, filter_)                     # 2: SECCOMP_MODE_FILTER


def drop_capabilities():
    """Root in a container without user namespaces still holds them."""
    syscall((126, 91)[MACHINES.index(platform.machine())],
            ctypes.create_string_buffer(struct.pack("Ii", 0x20080522, 0)), ctypes.create_string_buffer(24))
