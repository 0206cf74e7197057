defmodule Leash.Suggestion do
  # What was probably meant by a name that does not exist. Only errors ask for it.
  @moduledoc false

  # At a smaller Jaro distance, names have little in common.
  @near 0.77

  # What other libraries and systems call it. The first name that is an option counts.
  @foreign %{
    address_space: ~w(as memory mem)a,
    args: ~w(arguments argv)a,
    arg0: ~w(argv0)a,
    capabilities: ~w(caps)a,
    cd: ~w(cwd dir directory chdir workdir working_dir working_directory)a,
    check: ~w(probe url)a,
    command: ~w(cmd exec executable program)a,
    cpu_seconds: ~w(cpu)a,
    deadline: ~w(timeout)a,
    env: ~w(environment envs)a,
    every: ~w(interval period)a,
    failures: ~w(retries threshold max_failures)a,
    file_size: ~w(fsize)a,
    gid: ~w(regid)a,
    groups: ~w(supplementary_groups)a,
    guard: ~w(max_memory max_rss memory max_processes lifetime ttl)a,
    health: ~w(heartbeat healthcheck)a,
    input: ~w(stdin_data)a,
    label: ~w(title tag)a,
    level: ~w(log_level)a,
    lifetime: ~w(timeout ttl max_lifetime)a,
    on_output: ~w(log_output output into on_stdout)a,
    open_files: ~w(nofile files)a,
    prefix: ~w(log_prefix)a,
    processes: ~w(nproc max_processes)a,
    ready: ~w(wait_for on_ready readiness)a,
    rss: ~w(memory mem max_memory max_rss)a,
    ready_timeout: ~w(timeout)a,
    run_dir: ~w(dir directory)a,
    stop: ~w(kill_timeout kill_command delay_to_sigkill signal kill_signal stop_signal steps)a,
    stop_timeout: ~w(shutdown_timeout timeout)a,
    user: ~w(uid run_as)a
  }

  @doc "Returns a hint for an option that does not exist."
  @spec option(term(), [atom()]) :: String.t() | nil
  def option(key, known) do
    foreign = Enum.find(known, &(key in Map.get(@foreign, &1, [])))

    meant = foreign || nearest(key, known)
    if meant, do: did_you_mean(meant)
  end

  @doc "Returns the question for what was meant."
  @spec did_you_mean(term()) :: String.t()
  def did_you_mean(meant), do: "did you mean #{inspect(meant)}?"

  @doc "Returns the one of these names that is nearest, or nil if none is near."
  @spec nearest(term(), [atom()], float()) :: atom() | nil
  def nearest(name, known, near \\ @near)

  def nearest(name, known, near) when (is_atom(name) or is_binary(name)) and name != nil do
    text = name |> to_string() |> String.downcase()
    distance = &String.jaro_distance(text, Atom.to_string(&1))

    with true <- String.valid?(text),
         meant when meant != nil <- Enum.max_by(known, distance, fn -> nil end),
         true <- distance.(meant) > near do
      meant
    else
      _far -> nil
    end
  end

  def nearest(_other, _known, _near), do: nil
end
