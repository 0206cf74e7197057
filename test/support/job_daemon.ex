defmodule Leash.Test.JobDaemon do
  @moduledoc """
  A separate service that runs jobs with the environment of its clients. See
  `test/fixtures/job_daemon.py`.
  """

  alias Leash.Test.{Decoy, Name, Observer, Python}

  @enforce_keys [:port, :socket, :python]
  defstruct [:port, :socket, :python]

  @type t :: %__MODULE__{port: port(), socket: String.t(), python: String.t()}

  @doc """
  Starts a service with this Python, as another user behind `prefix`. It ends with the calling
  process.
  """
  @spec start(String.t(), String.t()) :: t()
  def start(python, prefix \\ "") do
    socket = Path.join(System.tmp_dir!(), Name.unique("leash-jobs"))
    words = Python.argv(python, "job_daemon.py", ["serve", socket])
    line = "exec #{prefix} " <> Python.quote_all(words)

    port = Port.open({:spawn_executable, "/bin/sh"}, [:binary, {:line, 200}, args: ["-c", line]])

    receive do
      {^port, {:data, {:eol, "ready " <> _pid}}} ->
        %__MODULE__{port: port, socket: socket, python: python}
    after
      10_000 -> raise "the job daemon did not start"
    end
  end

  @doc """
  Starts atd(8), the real service behind at(1), unless one runs here. It ends with the calling
  process.
  """
  @spec start_atd() :: :ok
  def start_atd do
    # atd locks its pid file, so a second one leaves at once. The first one ends on a signal.
    line = "atd -f & echo ready $!; read -r _end; kill $!"
    port = Port.open({:spawn_executable, "/bin/sh"}, [:binary, {:line, 200}, args: ["-c", line]])

    receive do
      {^port, {:data, {:eol, "ready " <> _pid}}} -> :ok
    after
      10_000 -> raise "atd did not start"
    end
  end

  @doc """
  Returns pm2 with a daemon whose files are in this directory, and the variables that lead to it.
  """
  @spec start_pm2(String.t()) :: {String.t(), [{String.t(), String.t()}]}
  def start_pm2(dir) do
    env = [{"PM2_HOME", dir}]
    {_output, 0} = System.cmd(pm2(), ["ping"], env: env, stderr_to_stdout: true)

    ExUnit.Callbacks.on_exit(fn ->
      System.cmd(pm2(), ["kill"], env: env, stderr_to_stdout: true)
    end)

    {pm2(), env}
  end

  @doc """
  Returns the path of pm2, or `nil` where it cannot be had. The first call installs it beside the
  build.
  """
  @spec pm2() :: String.t() | nil
  def pm2 do
    root = Path.join(Mix.Project.build_path(), "pm2")
    path = Path.join(root, "node_modules/.bin/pm2")
    if File.exists?(path) or install_pm2(root), do: path
  end

  defp install_pm2(root) do
    words = ~w(install --silent --no-audit --no-fund --prefix #{root} pm2@5)

    System.find_executable("npm") != nil and
      match?({_output, 0}, System.cmd("npm", words, stderr_to_stdout: true))
  end

  @doc """
  Returns names for the logs of two jobs: the first is the service's child, the second is
  double-forked.
  """
  @spec logs() :: [String.t()]
  def logs, do: [Decoy.log_path(), Decoy.log_path()]

  @doc """
  Returns a program's words. The program hands over a job for each log, with its own environment,
  and waits.
  """
  @spec client(t(), [String.t()]) :: [String.t()]
  def client(daemon, logs),
    do: Python.argv(daemon.python, "job_daemon.py", ["submit", daemon.socket | logs])

  @doc "Returns the jobs of these logs, once each of them notes signals."
  @spec jobs([String.t()]) :: [Decoy.t()]
  def jobs(logs), do: Enum.map(logs, &job/1)

  @doc "Returns the process that notes its signals in a log, with its number beside the log."
  @spec job(String.t()) :: Decoy.t()
  def job(log) do
    notes? = fn -> match?({:ok, _pid}, File.read(log <> ".pid")) and decoy?(pid(log)) end
    if Observer.eventually(20_000, notes?) == nil, do: raise("the job of #{log} did not start")
    Decoy.adopt("a job with a copied environment", Observer.identity(pid(log)), log)
  end

  defp pid(log), do: (log <> ".pid") |> File.read!() |> String.trim() |> String.to_integer()

  # It notes signals from the moment on in which the handlers are set (proc(5), SigCgt).
  defp decoy?(pid) do
    with {:ok, status} <- File.read("/proc/#{pid}/status"),
         [_line, caught] <- Regex.run(~r/^SigCgt:\s*([0-9a-f]+)/m, status),
         do: Bitwise.band(String.to_integer(caught, 16), Bitwise.bsl(1, 14)) != 0,
         else: (_gone -> false)
  end

  @doc "Ends the service and these jobs."
  @spec stop(t(), [Decoy.t()]) :: :ok
  def stop(daemon, jobs) do
    if Port.info(daemon.port), do: Port.close(daemon.port)

    for job <- jobs do
      Decoy.stop(job)
      File.rm(job.log <> ".pid")
    end

    _ = File.rm(daemon.socket)
    :ok
  end
end
