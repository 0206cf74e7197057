defmodule Leash.Test.Needs do
  @moduledoc """
  Checks for what tests need and not every machine has. Without root, a test with `@tag needs:
  :root` is left out with a reason.
  """

  alias Leash.Test.{Decoys, Python}

  @doc "Returns the needs that this machine does not meet, each with the reason."
  @spec missing() :: [{atom(), String.t()}]
  def missing do
    for {need, reason, met?} <- all(), not met?.(), do: {need, reason}
  end

  defp all do
    [
      {:root, "not running as root", &Decoys.root?/0},
      {:another_user, "it takes root and control groups", fn -> Decoys.root?() and cgroup?() end},
      {:pid_namespace, "unshare --pid is refused", &pid_namespace?/0},
      {:time_namespace, "unshare --time is refused",
       fn -> works?("unshare --time --boottime 100000 --fork true") end},
      {:hidepid, "no mount of /proc with hidepid=2", &hidepid?/0},
      {:cgroup, "no control group can be made", &cgroup?/0},
      {:cgroup2, "no control group of version 2 can be made", &cgroup2?/0},
      {:no_cap_sys_resource, "CAP_SYS_RESOURCE raises any limit",
       fn -> not cap_sys_resource?() end},
      {:pids_limit, "the pids controller of cgroup v1 cannot be used", &pids_limit?/0},
      {:freezer, "the freezer of cgroup v1, which nothing can be killed in, is not here",
       &freezer?/0},
      {:cc, "there is no C compiler", fn -> System.find_executable("cc") != nil end},
      {:cli, "there is no command leash (LEASH_CLI names one)",
       fn -> Leash.Test.Cli.path() != nil end},
      {:operator, "the command leash is not installed in priv",
       fn -> Leash.Operator.path() != nil end},
      {:terminal, "tmux is not installed, or there is no command leash",
       fn -> tmux?() and Leash.Test.Cli.path() != nil end},
      {:operator_terminal, "tmux is not installed, or the command leash is not in priv",
       fn -> tmux?() and Leash.Operator.path() != nil end},
      {:less, "less is not installed", fn -> System.find_executable("less") != nil end},
      {:vim, "vim is not installed", fn -> System.find_executable("vim") != nil end},
      {:script, "script of util-linux is not installed",
       fn -> works?("script --version | grep -q util-linux") end},
      {:sudo, "sudo is not installed, or no mount namespace, or no root",
       fn -> works?("unshare --mount mount -t tmpfs none /tmp && sudo -n true") end},
      {:sshd, "ssh or sshd is not installed, or not running as root",
       fn -> Decoys.root?() and System.find_executable("ssh") != nil and sshd() != nil end},
      {:node, "node is not installed", fn -> System.find_executable("node") != nil end},
      {:at, "at is not installed, or not running as root",
       fn -> Decoys.root?() and System.find_executable("atd") != nil end},
      {:public_python, "there is no setpriv, no root, or no Python that every user may run",
       fn -> Decoys.root?() and Python.public() != nil end},
      {:su, "su to another user is refused", fn -> works?("su nobody -s /bin/sh -c true") end},
      {:pm2, "pm2 cannot be installed with npm", fn -> Leash.Test.JobDaemon.pm2() != nil end},
      {:git, "git is not installed", fn -> System.find_executable("git") != nil end},
      {:ffmpeg, "ffmpeg and ffprobe are not installed",
       fn ->
         System.find_executable("ffmpeg") != nil and System.find_executable("ffprobe") != nil
       end},
      {:seccomp, "no filter of system calls can be set", &seccomp?/0},
      {:subset_pid, "no mount of /proc with subset=pid, or no root",
       fn -> works?("unshare --mount mount -t proc -o subset=pid proc /proc") end},
      {:hidepid_4, "no mount of /proc with hidepid=4, or no root",
       fn -> works?("unshare --mount mount -t proc -o hidepid=4 proc /proc") end},
      {:perl, "no perl, or no mount of /proc with hidepid=2",
       fn -> System.find_executable("perl") != nil and hidepid?() end},
      {:mounts, "no mount namespace, or no root",
       fn -> works?("unshare --mount mount -t tmpfs none /tmp") end},
      {:network, "no network namespace, no ip of iproute2, or no root",
       fn -> works?("unshare --net ip link set lo up") end},
      {:setpriv, "there is no setpriv, or no root",
       fn -> works?("setpriv --bounding-set=-all --inh-caps=-all true") end},
      {:set_user_id, "no root, or set-user-id programs get no rights here",
       fn -> Decoys.root?() and Leash.Test.Unkillable.possible?() end},
      {:set_tid, "clone3 with set_tid is refused", &set_tid?/0}
    ]
  end

  @doc "Returns the path of the server of OpenSSH, or `nil`. It runs by its absolute path only."
  @spec sshd() :: String.t() | nil
  def sshd,
    do: System.find_executable("sshd") || Enum.find(["/usr/sbin/sshd"], &File.exists?/1)

  defp tmux?, do: System.find_executable("tmux") != nil

  defp pid_namespace?, do: works?("unshare --pid --fork --mount-proc true")

  defp hidepid?,
    do: works?("unshare --mount sh -c 'mount -t proc -o hidepid=2 proc /proc' && id nobody")

  defp cgroup?,
    do: match?(%{kind: :cgroup}, Leash.Test.Carrier.new() |> tap(&Leash.Test.Carrier.clear/1))

  defp cgroup2? do
    with {:ok, %{parent: parent}} <- Leash.Native.cgroup_place(""),
         path = Path.join(parent, Leash.Test.Name.unique("leash-test")),
         :ok <- File.mkdir(path) do
      File.rmdir(path) == :ok
    else
      _none -> false
    end
  end

  defp seccomp?, do: works?(Leash.Test.Narrow.without(kill: :eperm) <> " sh -c '! kill -0 $$'")

  defp cap_sys_resource? do
    [_line, effective] = Regex.run(~r/^CapEff:\s*([0-9a-f]+)/m, File.read!("/proc/self/status"))
    effective |> String.to_integer(16) |> Bitwise.band(Bitwise.bsl(1, 24)) != 0
  end

  defp pids_limit? do
    path = "/sys/fs/cgroup/pids/" <> Leash.Test.Name.unique("leash-test")

    with :ok <- File.mkdir(path) do
      limited = File.exists?(Path.join(path, "pids.max"))
      File.rmdir(path)
      limited
    else
      {:error, _reason} -> false
    end
  end

  defp freezer? do
    path = "/sys/fs/cgroup/freezer/" <> Leash.Test.Name.unique("leash-test")

    with :ok <- File.mkdir(path) do
      freezes? = File.exists?(Path.join(path, "freezer.state"))
      File.rmdir(path)
      freezes?
    else
      {:error, _reason} -> false
    end
  end

  defp set_tid? do
    {pid, 0} = System.cmd("sh", ["-c", "echo $$"])
    log = Path.join(System.tmp_dir!(), Leash.Test.Name.unique("leash-set-tid"))
    argv = Python.argv("decoy.py", [log, "0", "--pid=#{String.trim(pid)}"])
    works = works?(Python.quote_all(argv))
    _ = File.rm(log)
    works
  end

  defp works?(line) do
    match?({_output, 0}, System.cmd("sh", ["-c", line], stderr_to_stdout: true))
  end
end
