defmodule Leash.Shim do
  # The arguments of a shim and its reports: the VM's side of native/PROTOCOL.md, sections 1 and
  # 2.
  @moduledoc false

  alias Leash.{
    Detached,
    Environment,
    Exit,
    Ladder,
    Limits,
    Native,
    Run,
    Signal,
    StopCommand,
    WorkingDirectory
  }

  @type report ::
          {:ready,
           %{shim: pos_integer(), mark: :set | :off | :no_depth | {:error, pos_integer()}}}
          | {:spawned, pos_integer()}
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

  @doc "Returns the path of the shim binary in the application's priv."
  @spec path() :: String.t()
  def path do
    # Otherwise every start of every worker would ask the code server, one after the other.
    with nil <- :persistent_term.get(@path_key, nil) do
      path = Application.app_dir(:leash, "priv/leash-shim")
      :persistent_term.put(@path_key, path)
      path
    end
  end

  # The descriptors that the warden gives to the shim: PROTOCOL.md, section 10.
  @channel 3
  @descriptors [stdin: 4, stdout: 5, stderr: 6]

  @doc """
  Returns the request to the run's warden, with the VM's current directory and environment.
  """
  @spec request(Run.t(), pos_integer(), map()) :: %{
          run: Leash.RunId.t(),
          args: [binary()],
          environment: Environment.t(),
          ends: Native.ends()
        }
  def request(run, number, options) do
    %{
      run: run.id,
      args: [path() | args(run, number, options)],
      environment:
        Environment.with_changes(
          [{"LEASH_RUN", tag(run, number, options)} | options.env],
          Environment.inherited(options)
        ),
      ends: ends(options)
    }
  end

  defp ends(%{attach: _target}), do: {:none, :none, :none}

  defp ends(%{stdin: :pty, pty: pty}),
    do: {:terminal, pty[:rows], pty[:cols], pty[:echo]}

  defp ends(options),
    do:
      {end_of(options.stdin, :stdin), end_of(options.stdout, :stdout),
       end_of(options.stderr, :stderr)}

  # Pipes are made here. The warden no longer has the VM's own stdin and stdout. It has its
  # stderr.
  defp end_of(pipe, _stream) when pipe in [:pipe, :output], do: :pipe
  defp end_of(:inherit, stream) when stream in [:stdin, :stdout], do: :inherit
  defp end_of(_other, _stream), do: :none

  @doc """
  Opens the port whose program is the run's warden. The warden connects to the socket of that
  name.

  Raises what `Port.open/2` raises if the system refuses: `:emfile`, `:eagain`, `:enomem` or
  `:system_limit`. Raises `:enoent` if the binary is missing, and `:no_working_directory` if the
  directory of the VM is missing.
  """
  @spec open_warden(Run.t(), String.t()) :: port()
  def open_warden(run, socket) do
    Port.open({:spawn_executable, path()}, [
      :binary,
      :exit_status,
      :hide,
      {:packet, 2},
      {:args,
       ["--run-id=#{run.id}", "--warden", "--control=" <> socket, "--report=1" | owner(run)]},
      # The variable of a run around this VM would be taken for the warden's own.
      {:env, [{~c"LEASH_RUN", false}]}
    ])
  rescue
    error -> reraise WorkingDirectory.explain(error), __STACKTRACE__
  end

  defp owner(%{shim_owner: nil}), do: []
  defp owner(%{shim_owner: owner}), do: ["--owner=" <> owner]

  # Without an owner the variable is removed, because an outer run's would be taken for ours. For
  # a detached worker it is removed, too. Otherwise a process that loses its mark would look like
  # a remainder of the dead VM.
  defp tag(_run, _number, %{on_exit: :detach}), do: nil
  defp tag(run, number, _options), do: Run.owner_tag(run, number)

  defp args(run, number, %{attach: attach} = options) do
    List.flatten([
      head(run, number, "--channel=#{@channel}", options),
      "--attach=" <> attach.option,
      # These come after all other options.
      commands(Ladder.commands(options.stop))
    ])
  end

  defp args(run, number, options) do
    arguments(run, number, "--channel=#{@channel}", options, [
      "--stdin=" <> target(options.stdin, :stdin),
      "--stdout=" <> target(options.stdout, :stdout),
      if(options.stdin == :pty, do: "--controlling-tty", else: []),
      if(options.on_exit == :keep, do: "--on-exit=keep", else: []),
      cd(options)
    ])
  end

  defp arguments(run, number, leash, options, more) do
    List.flatten([
      head(run, number, leash, options),
      "--stderr=" <> target(options.stderr, :stderr),
      if(options.arg0, do: "--arg0=" <> options.arg0, else: []),
      limits(options.limits),
      cgroup(options.cgroup),
      identity(options),
      if(options.mark, do: [], else: "--no-mark"),
      more,
      commands(Ladder.commands(options.stop)),
      "--",
      options.command | options.args
    ])
  end

  # Other runs look for the first ones at exactly these positions.
  defp head(run, number, leash, options) do
    [
      "--run-id=#{run.id}",
      "--worker=#{number}",
      detached(options),
      leash,
      "--stop=" <> Ladder.to_option(options.stop),
      "--linger=#{linger(options.linger)}"
      | owner(run)
    ]
  end

  defp detached(%{on_exit: :detach, name: name}),
    do: ["--name=" <> Detached.text(name), "--on-hangup=detach"]

  defp detached(_options), do: []

  defp cd(%{cd: nil}), do: []

  # The shim that runs a command of the ladder is no longer in the directory of its start.
  defp cd(%{cd: cd, stop: stop}),
    do: "--cd=" <> if(Ladder.commands(stop) == [], do: cd, else: Path.absname(cd))

  defp commands([]), do: []
  defp commands(commands), do: StopCommand.arguments(commands)

  defp limits([]), do: []
  defp limits(limits), do: "--limits=" <> Limits.to_option(limits)

  defp cgroup(path) when is_binary(path), do: "--cgroup=" <> path
  defp cgroup(_no_group), do: []

  # Most programs are the VM's user, and their options have no such key.
  defp identity(%{identity: arguments}), do: arguments
  defp identity(_options), do: []

  # The shim's longest time, 24 days. A caller that waits for ever decides itself when to end.
  defp linger(:infinity), do: 0x7FFFFFFF
  defp linger(ms), do: ms

  defp target({:file, path}, _stream), do: "file:" <> path
  # One descriptor for all three.
  defp target(:pty, _stream), do: "fd:#{@descriptors[:stdin]}"

  defp target(target, stream) do
    if end_of(target, stream) == :none,
      do: Atom.to_string(target),
      else: "fd:#{@descriptors[stream]}"
  end

  @stages %{
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
    16 => :shim,
    17 => :cgroup,
    18 => :kill,
    19 => :capabilities,
    20 => :pty
  }

  @doc """
  Reads one report frame. Returns `:unknown` for what a newer shim might add.

  In the frame, commands of the ladder are numbers, which `named/3` replaces.
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
      {:status, status} -> {:gone, %{exit | status: status}}
      {:signal, signal} -> {:gone, %{exit | signal: signal}}
      :unknown -> {:gone, exit}
    end
  end

  # From the warden.
  def report(<<8, shim::32>>), do: {:spawned, shim}

  def report(<<7, index, how, value, errno::16>>) when how in 0..3,
    do: {:command, index, StopCommand.result(how, value, errno)}

  def report(other), do: {:unknown, other}

  @doc """
  Returns a report with commands instead of their indices, from the ladder that the shim was
  given.

  `results` holds the results of earlier reports, by index.
  """
  @spec named(report(), Ladder.t(), %{optional(byte()) => StopCommand.result()}) :: report()
  def named({:step, cause, {:cmd, index}, ms}, stop, _results),
    do: {:step, cause, {:cmd, Ladder.command(stop, index)}, ms}

  def named({:gone, %Exit{step: nil}} = report, _stop, _results), do: report

  def named({:gone, %Exit{} = exit}, stop, results) do
    steps =
      Enum.map(exit.steps, fn
        %{command: index} = step ->
          %{step | command: Ladder.command(stop, index), result: results[index]}

        step ->
          step
      end)

    {:gone, %{exit | steps: steps}}
  end

  def named(report, _stop, _results), do: report

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

  # The process is not the shim's child.
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
  Returns arguments and environment for a port that is the worker's own stdin and stdout.

  There are no reports. The leash is the pipe that the port holds, which is stdout for a port that
  only reads.
  """
  @spec for_port(Run.t(), pos_integer(), map()) ::
          {[binary()], [{charlist(), charlist() | [[]] | false}]}
  def for_port(run, number, options) do
    leash = if options.reads_only?, do: "--leash=1", else: "--leash=0"

    # The VM enters the port's own :cd before the shim begins. This one is for commands of the
    # ladder.
    cd = if Ladder.commands(options.stop) == [], do: [], else: cd(options)

    tag = tag(run, number, options)
    variable = {~c"LEASH_RUN", if(tag, do: String.to_charlist(tag), else: false)}
    env = Environment.for_port(options, [variable | options.env])
    {arguments(run, number, leash, options, [cd]), env}
  end

  @doc """
  Returns the arguments for a program of Leash itself, whose output a port reads.

  The program ends with the port.
  """
  @spec for_helper(Leash.RunId.t(), [binary(), ...]) :: [binary()]
  def for_helper(run_id, command) do
    ["--run-id=#{run_id}", "--leash=0", "--stdin=null", "--stderr=null", "--no-mark"] ++
      ["--stop=KILL:0", "--linger=0", "--" | command]
  end
end
