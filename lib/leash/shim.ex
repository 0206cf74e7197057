defmodule Leash.Shim do
  # Starting a shim and reading its reports: the VM's side of native/PROTOCOL.md, sections 1 and 2.
  @moduledoc false

  alias Leash.{Detached, Exit, Ladder, Limits, Run, Signal, StopCommand, WorkingDirectory}

  @type report ::
          {:ready,
           %{shim: pos_integer(), mark: :set | :off | :no_depth | {:error, pos_integer()}}}
          | {:started, pos_integer()}
          | {:attached, pos_integer(), marked :: pos_integer(), unmarked :: non_neg_integer()}
          | {:start_failed, atom(), pos_integer()}
          | {:step, Exit.cause(), Signal.t() | :close_stdin | StopCommand.step(),
             ms :: non_neg_integer()}
          | {:command, index :: byte(), StopCommand.result()}
          | {:exited, {:status, byte()} | {:signal, Signal.t()} | :unknown}
          | {:gone, Exit.t()}
          | {:unknown, binary()}

  @path_key {__MODULE__, :path}

  @doc "The path of the shim binary in the application's priv."
  @spec path() :: String.t()
  def path do
    # The code server would be asked by every start of every worker, one after the other.
    with nil <- :persistent_term.get(@path_key, nil) do
      path = Application.app_dir(:leash, "priv/leash-shim")
      :persistent_term.put(@path_key, path)
      path
    end
  end

  @doc """
  Opens the port whose program is a shim; the port is the leash.

  The caller is the port's owner. Raises what `Port.open/2` raises when the system refuses:
  `:emfile`, `:eagain`, `:enomem`, `:system_limit`, `:enoent` where the binary is missing, and
  `:no_working_directory` where that of the VM is.
  """
  @spec open(Run.t(), pos_integer(), map(), String.t() | nil) :: port()
  def open(run, number, options, stdio_name) do
    {leash, report, stdio} =
      if options[:stdin] == :inherit, do: {3, 4, [:nouse_stdio]}, else: {0, 1, []}

    spawn_shim([
      :binary,
      :exit_status,
      :hide,
      {:packet, 2},
      {:args, args(run, number, options, {leash, report}, stdio_name)},
      {:env, environment(run, number, options) ++ options.env} | stdio
    ])
  end

  @doc """
  Opens the port whose program is the run's warden; raises as `open/4` does.
  """
  @spec open_warden(Run.t()) :: port()
  def open_warden(run) do
    spawn_shim([
      :binary,
      :exit_status,
      :hide,
      {:packet, 2},
      {:args,
       [
         "--run-id=#{run.id}",
         "--warden",
         "--leash=0",
         "--report=1",
         "--owner=" <> run.shim_owner
       ]},
      # That of a run around this VM would be taken for the warden's own.
      {:env, [{~c"LEASH_RUN", false}]}
    ])
  end

  defp spawn_shim(options) do
    Port.open({:spawn_executable, path()}, options)
  rescue
    error -> reraise WorkingDirectory.explain(error), __STACKTRACE__
  end

  # Without an owner the variable is removed: an outer run's would be taken for ours. With a detached worker, too: a
  # process that loses its mark would else look like what the dead VM left.
  defp environment(run, number, options) do
    tag = if options[:on_exit] != :detach, do: Run.owner_tag(run, number)
    [{~c"LEASH_RUN", if(tag, do: String.to_charlist(tag), else: false)}]
  end

  defp args(run, number, %{attach: attach} = options, {leash, report}, _stdio_name) do
    List.flatten([
      head(run, number, leash, options),
      "--report=#{report}",
      "--attach=" <> attach.option,
      # The last of all options.
      StopCommand.arguments(Ladder.commands(options.stop))
    ])
  end

  defp args(run, number, options, {leash, report}, stdio_name) do
    arguments(run, number, leash, options, [
      "--report=#{report}",
      "--stdin=#{options.stdin}",
      "--stdout=" <> target(options.stdout),
      if(options.on_exit == :keep, do: "--on-exit=keep", else: []),
      if(stdio_name, do: "--stdio=" <> stdio_name, else: []),
      cd(options)
    ])
  end

  defp arguments(run, number, leash, options, more) do
    List.flatten([
      head(run, number, leash, options),
      "--stderr=" <> target(options.stderr),
      if(options.arg0, do: "--arg0=" <> options.arg0, else: []),
      limits(options.limits),
      if(options.mark, do: [], else: "--no-mark"),
      more,
      StopCommand.arguments(Ladder.commands(options.stop)),
      "--",
      options.command | options.args
    ])
  end

  # The first ones are looked for at exactly these positions by other runs.
  defp head(run, number, leash, options) do
    [
      "--run-id=#{run.id}",
      "--worker=#{number}",
      detached(options),
      "--leash=#{leash}",
      "--stop=" <> Ladder.to_option(options.stop),
      "--linger=#{linger(options.linger)}"
      | if(run.shim_owner, do: ["--owner=" <> run.shim_owner], else: [])
    ]
  end

  defp detached(%{on_exit: :detach, name: name}),
    do: ["--name=" <> Detached.text(name), "--on-hangup=detach"]

  defp detached(_options), do: []

  defp cd(%{cd: nil}), do: []

  # A command of the ladder is run by a shim that is no more where it was started.
  defp cd(%{cd: cd, stop: stop}),
    do: "--cd=" <> if(Ladder.commands(stop) == [], do: cd, else: Path.absname(cd))

  defp limits([]), do: []
  defp limits(limits), do: "--limits=" <> Limits.to_option(limits)

  # The shim's longest time, 24 days; whoever waits for ever says when it is enough.
  defp linger(:infinity), do: 0x7FFFFFFF
  defp linger(ms), do: ms

  defp target(:output), do: "pipe"
  defp target(:null), do: "null"
  defp target(:stdout), do: "stdout"
  defp target(:inherit), do: "inherit"
  defp target({:file, path}), do: "file:" <> path

  @stages %{
    1 => :stdio,
    2 => :pipe,
    3 => :fork,
    4 => :setsid,
    5 => :ids,
    6 => :pdeathsig,
    7 => :stdin,
    8 => :stdout,
    9 => :stderr,
    10 => :cd,
    11 => :exec,
    12 => :owner,
    13 => :limits,
    14 => :attach,
    15 => :warden,
    16 => :shim
  }

  @doc """
  Reads one report frame; what a newer shim might add is `:unknown`.

  Commands of the ladder are numbers in it, which `Leash.StopCommand.named/3` replaces.
  """
  @spec report(binary()) :: report()
  def report(<<1, 1, shim::32, mark, errno::16, _flags>>) do
    {:ready, %{shim: shim, mark: mark(mark, errno)}}
  end

  def report(<<2, pid::32>>), do: {:started, pid}
  def report(<<2, pid::32, marked::32, unmarked::32>>), do: {:attached, pid, marked, unmarked}

  def report(<<3, stage, errno::16>>), do: {:start_failed, Map.get(@stages, stage, stage), errno}

  def report(<<4, cause, index, 0, ms::32>>), do: {:step, cause(cause), {:cmd, index}, ms}
  def report(<<4, cause, _index, 255, ms::32>>), do: {:step, cause(cause), :close_stdin, ms}

  def report(<<4, cause, _index, signal, ms::32>>),
    do: {:step, cause(cause), Signal.name(signal), ms}

  def report(<<5, how, value>>), do: {:exited, how(how, value)}

  def report(<<6, how, value, cause, _last, ms::32, _passes::32, count, steps::binary>>)
      when byte_size(steps) == count * 6 do
    steps =
      for <<index, signal, reaped::32 <- steps>>,
        do: taken(index, signal, reaped)

    exit = %Exit{
      core_dumped?: how == 3,
      cause: cause(cause),
      step: last(steps),
      steps: steps,
      duration: ms
    }

    case how(how, value) do
      {:status, status} -> {:gone, %Exit{exit | status: status}}
      {:signal, signal} -> {:gone, %Exit{exit | signal: signal}}
      :unknown -> {:gone, exit}
    end
  end

  def report(<<7, index, how, value, errno::16>>) when how in 0..3,
    do: {:command, index, StopCommand.result(how, value, errno)}

  def report(other), do: {:unknown, other}

  defp last([]), do: nil

  defp last(steps) do
    case List.last(steps) do
      %{stdin: :closed} -> :close_stdin
      %{signal: nil} -> :cmd
      %{signal: signal} -> signal
    end
  end

  defp taken(_index, 255, reaped), do: %{signal: nil, stdin: :closed, reaped: reaped}
  defp taken(index, 0, reaped), do: %{signal: nil, command: index, result: nil, reaped: reaped}
  defp taken(_index, signal, reaped), do: %{signal: Signal.name(signal), reaped: reaped}

  # Of a process that is not the shim's child.
  defp how(0, _nothing), do: :unknown
  defp how(1, status), do: {:status, status}
  defp how(_killed_or_dumped, signal), do: {:signal, Signal.name(signal)}

  defp cause(0), do: :exited
  defp cause(1), do: :leash
  defp cause(2), do: :owner
  defp cause(3), do: :stop
  defp cause(4), do: :kill
  defp cause(5), do: :exited
  defp cause(6), do: :kept

  defp mark(0, _errno), do: :set
  defp mark(1, _errno), do: :off
  defp mark(2, _errno), do: :no_depth
  defp mark(3, errno), do: {:error, errno}

  @doc """
  Arguments and environment for a port that is the worker's own stdin and stdout.

  There are no reports; the leash is the pipe that the port holds, which for a port that only reads is stdout.
  """
  @spec for_port(Run.t(), pos_integer(), map()) ::
          {[binary()], [{charlist(), charlist() | [[]] | false}]}
  def for_port(run, number, options) do
    leash = if options.reads_only?, do: 1, else: 0

    # The port's own :cd is entered before the shim begins; this one is for commands of the ladder.
    cd = if Ladder.commands(options.stop) == [], do: [], else: cd(options)

    {arguments(run, number, leash, options, [cd]),
     environment(run, number, options) ++ options.env}
  end
end
