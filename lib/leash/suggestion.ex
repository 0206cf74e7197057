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
    mode: ~w(dry_run report report_only)a,
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

  @doc "Returns a hint for a value that an option does not take."
  @spec value(atom() | nil, term()) :: String.t() | nil
  # Values of variables tend to be secrets.
  def value(:env, _value), do: nil

  def value(:args, line) when is_binary(line), do: did_you_mean(String.split(line))
  def value(:args, [_ | _] = args), do: arguments(args)
  def value(:stop, ms) when is_integer(ms), do: did_you_mean(sigterm: ms)
  def value(:stop, [signal]) when is_atom(signal), do: did_you_mean([{signal, 2_000}])
  def value(:ready, line) when is_binary(line), do: "did you mean ~r/#{line}/?"
  def value(:ready, port) when is_integer(port), do: did_you_mean({:tcp, port})
  def value(:ready, {:port, port}), do: did_you_mean({:tcp, port})
  def value(:check, port) when is_integer(port), do: did_you_mean({:tcp, port})
  def value(:sweep, scope) when scope in [:app, :user], do: did_you_mean(scope: scope)
  def value(:group, :all), do: ":all stands for every group"
  def value(:app, app) when is_atom(app) and app != nil, do: did_you_mean(Atom.to_string(app))
  def value(:command, {:spawn, _line}), do: "program and arguments are given apart"

  def value(key, path) when key in [:stdout, :stderr] and is_binary(path),
    do: did_you_mean({:file, path})

  # No atoms are made from input.
  def value(:name, name) when is_binary(name) do
    if name =~ ~r/^[a-z_][a-z0-9_]*$/, do: "did you mean :#{name}?"
  end

  def value(_key, [_ | _] = value) do
    if List.ascii_printable?(value), do: did_you_mean(List.to_string(value))
  rescue
    # An improper list.
    ArgumentError -> nil
    FunctionClauseError -> nil
  end

  def value(_key, "~" <> _path), do: tilde()
  def value(_key, _value), do: nil

  @doc "Returns the hint for a path that begins with `~`."
  @spec tilde() :: String.t()
  def tilde, do: "only a shell expands ~, and Path.expand/1 does"

  defp arguments(args) do
    if List.improper?(args) do
      nil
    else
      cond do
        List.ascii_printable?(args) -> did_you_mean(String.split(List.to_string(args)))
        Enum.any?(args, &(is_atom(&1) or is_tuple(&1))) -> "options come after the arguments"
        # Then something else is wrong.
        Enum.all?(args, &is_binary/1) -> nil
        Enum.all?(args, &text?/1) -> did_you_mean(Enum.map(args, &to_string/1))
        true -> nil
      end
    end
  end

  defp text?(argument), do: is_binary(argument) or is_number(argument) or charlist?(argument)
  defp charlist?(argument), do: is_list(argument) and List.ascii_printable?(argument)
end
