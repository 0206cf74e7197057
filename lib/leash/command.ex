defmodule Leash.Command do
  # One program that runs for its caller, which reads its output. `Leash.cmd/3` and
  # `Leash.stream!/3` share this module.
  #
  # The caller itself holds the leash and the pipes' read ends. So nothing is copied between
  # processes, a caller that does not read holds back the program, and no process is started.
  #
  # The caller carries out what `Leash.Worker.Machine` decides while it waits in `next/3`. The end
  # of the caller, for any reason, ends the tree: its descriptors close, and the Reaper does the
  # rest.
  @moduledoc false

  alias Leash.{Cleanup, Degraded, Exit, Native, Reaper, Registry, Run, Signal, Telemetry}
  alias Leash.Stdio.{InputFeeder, Terminal}
  alias Leash.Worker.{Channel, Launch, Machine}

  require Logger

  @enforce_keys [:owner, :run, :label, :machine, :channel]
  defstruct [
    :owner,
    :run,
    :label,
    :machine,
    :channel,
    :supervisor,
    :hunt,
    # When the machine's timer expires.
    :due,
    # Process and monitor of the input's writer.
    :feeder,
    :input_failed,
    # How the program exited before anything was done to end it.
    :by_itself,
    :ended,
    :kept_until,
    # When to look again at a terminal that no process has open.
    :reopens_at,
    terminal?: false,
    streams: []
  ]

  @type stream :: :stdout | :stderr
  @type how :: {:status, byte()} | {:signal, Signal.t()}

  @typedoc """
  The end of a program: by itself, or after something was done to end it.

  If its shim was killed or the program is a survivor, then its end was not seen. Then SIGKILL
  stands for it.
  """
  @type ended :: {:by_itself | :ended, how()} | {:error, :start_timeout}

  @type t :: %__MODULE__{
          owner: pid(),
          run: Leash.Run.t(),
          label: String.t(),
          machine: Machine.t(),
          channel: Channel.t(),
          supervisor: reference(),
          hunt: reference() | nil,
          due: integer() | nil,
          feeder: {pid(), reference()} | nil,
          input_failed: nil | {:error | :throw | :exit, term(), Exception.stacktrace()},
          by_itself: how() | nil,
          ended: ended() | nil,
          kept_until: integer() | :infinity | nil,
          reopens_at: integer() | nil,
          terminal?: boolean(),
          streams: [{stream(), Native.fd()}]
        }

  @typedoc "The deadline of a command, and the milliseconds that it may be without output."
  @type limits :: {integer() | :infinity, timeout()}

  @type timed_out :: :timeout | {:timeout, :idle}

  @typedoc "The result of `next/3`. `:ended` is the last, after the tree's end and all output."
  @type event ::
          {:data, stream(), binary(), running()}
          | {:input_failed, :error | :throw | :exit, term(), Exception.stacktrace(), t()}
          | {:ended, ended(), running()}
          | {:timeout, running()}

  @typedoc "A command under a shim, or on a plain port where there are no shims."
  @type running :: t() | Degraded.Command.t()

  # Nothing of the tree is left, but another process may hold the other end of a pipe. The pipe
  # already contains what the tree wrote. Output that comes within this time is read, too.
  @quiet_ms 100

  # A read of a terminal returns less.
  @discard_bytes 65_536

  # The time between two looks at a terminal that no process has open.
  @reopen_ms 50

  ## Start

  @doc """
  Starts a program. The options are those of `Leash.Command.Options`.

  Errors are those of `Leash.Worker`.
  """
  @spec start(map()) :: {:ok, running()} | {:error, term()}
  def start(options) do
    if Run.degraded?(), do: Degraded.Command.start(options), else: launch(options)
  end

  defp launch(options) do
    with {:ok, launched} <- Launch.run(options, :command, nil) do
      {events, channel} = Channel.new(launched)

      launched
      |> new(channel, options)
      |> open(launched.started.ends, options)
      |> steps(events)
      |> read_channel()
      |> await_start(deadline(options.start_timeout))
      |> started()
    end
  end

  defp new(launched, channel, options) do
    %__MODULE__{
      owner: self(),
      run: launched.run,
      label: launched.label,
      machine: %Machine{
        stop: options.stop,
        linger: options.linger,
        on_crash: options.on_crash,
        # The shim's last report is the proof, so its exit is not awaited.
        await_exit?: false
      },
      channel: channel,
      # Without it, nothing would end the tree after this process.
      supervisor: Registry.monitor_owner()
    }
  end

  defp open(command, ends, options) do
    terminal? = options.stdin == :pty
    streams = for stream <- [:stdout, :stderr], fd = ends[stream], do: {stream, fd}
    feeder = feeder(ends.stdin, options.input, terminal?)
    %{command | streams: streams, feeder: feeder, terminal?: terminal?}
  end

  defp feeder(nil, _input, _terminal?), do: nil

  # Nothing is typed into this terminal.
  defp feeder(fd, nil, true) do
    :ok = Native.close(fd)
    nil
  end

  defp feeder(fd, input, terminal?), do: InputFeeder.start(fd, input, terminal?)

  defp await_start(%{machine: %{phase: :done}} = command, _deadline), do: command

  # A failed program is gone before its caller gets the error.
  defp await_start(%{machine: %{failure: failure}} = command, _deadline) when failure != nil,
    do: command |> await([], :infinity) |> elem(1) |> await_start(:infinity)

  defp await_start(%{machine: %{os_pid: nil}} = command, deadline) do
    case left(deadline) do
      0 -> command |> step({:fail, :start_timeout}) |> await_start(:infinity)
      ms -> command |> await([], ms) |> elem(1) |> await_start(deadline)
    end
  end

  defp await_start(command, _deadline), do: command

  # The program ran, so its result goes to the caller instead of failing the start.
  defp started(%{machine: %{os_pid: pid}} = command) when pid != nil, do: {:ok, command}

  defp started(%{machine: machine} = command) do
    _ended = command |> close_all() |> release()

    case Machine.outcome(machine) do
      {:reason, reason} -> {:error, reason}
      {:exit, exit} -> {:error, {:exited, exit}}
    end
  end

  @doc "Returns the limits of a command that starts now: in all, and without output."
  @spec limits(timeout(), timeout()) :: limits()
  def limits(total, idle), do: {deadline(total), idle}

  @doc "Returns the deadline for `next/3` at the beginning of a wait for output."
  @spec until(limits()) :: integer() | :infinity
  def until({total, :infinity}), do: total
  # An integer is less than any atom.
  def until({total, idle}), do: min(total, now() + idle)

  @doc "Returns which limit was reached."
  @spec reached(limits()) :: timed_out()
  def reached({total, _idle}), do: if(left(total) == 0, do: :timeout, else: {:timeout, :idle})

  @doc "Returns the deadline of so many milliseconds, for `next/3`."
  @spec deadline(timeout()) :: integer() | :infinity
  def deadline(:infinity), do: :infinity
  def deadline(ms), do: now() + ms

  ## What happens next

  @doc """
  Waits for what happens next, until a deadline in monotonic milliseconds.

  Data come in parts of at most `max` bytes.
  """
  @spec next(running(), pos_integer(), integer() | :infinity) :: event()
  def next(%Degraded.Command{} = command, max, deadline),
    do: Degraded.Command.next(command, max, deadline)

  def next(%{input_failed: {kind, reason, stacktrace}} = command, _max, _deadline),
    do: {:input_failed, kind, reason, stacktrace, %{command | input_failed: nil}}

  def next(command, max, deadline) do
    # The deadline is checked first: a program that writes without a pause leaves no time to wait.
    cond do
      patience(command, deadline) > 0 -> read(command, command.streams, max, deadline)
      command.ended == nil -> late(command, max, deadline)
      true -> command |> close_all() |> over()
    end
  end

  # The time is over. An end that came in time must still be received.
  defp late(command, max, deadline) do
    case await(command, [], 0) do
      {_happened, %{ended: nil} = command} -> {:timeout, command}
      {_happened, command} -> next(command, max, deadline)
    end
  end

  # There is nothing to read at the moment, or no stream is left.
  defp read(%{ended: ended, streams: []} = command, [], _max, _deadline) when ended != nil,
    do: over(command)

  defp read(command, [], max, deadline) do
    case await(command, command.streams, patience(command, deadline)) do
      {:nothing, %{ended: nil} = command} -> late(command, max, deadline)
      {:nothing, command} -> command |> close_all() |> over()
      {:something, command} -> next(command, max, deadline)
    end
  end

  defp read(command, [{stream, fd} = this | others], max, deadline) do
    case Native.fd_read(fd, max) do
      # The next read begins with the other stream, so that neither starves.
      {:ok, data} ->
        rest = List.delete(command.streams, this)
        {:data, stream, data, %{command | streams: rest ++ [this]}}

      :again ->
        read(command, others, max, deadline)

      # The program may have closed its streams, and open its controlling terminal later.
      :eof
      when command.terminal? and command.machine.exited == nil and command.ended == nil ->
        read(%{command | reopens_at: now() + @reopen_ms}, others, max, deadline)

      _eof_or_error ->
        command |> close(this) |> read(others, max, deadline)
    end
  end

  # Waits so many milliseconds for one thing to happen.
  defp await(command, streams, ms) do
    {one, other} = descriptors(streams)
    %{channel: %{fd: channel}, hunt: hunt, supervisor: supervisor} = command
    feeding = command.feeder && elem(command.feeder, 1)

    receive do
      {:leash_fd, fd, :ready} when fd == one or fd == other ->
        {:something, command}

      {:leash_fd, ^channel, :ready} ->
        {:something, read_channel(command)}

      {:DOWN, ^hunt, :process, _pid, reason} ->
        verdict = Cleanup.verdict(reason, command.channel.warden)
        events = Channel.proven(command.channel, verdict)
        {:something, steps(%{command | hunt: nil}, events)}

      {:DOWN, ^feeding, :process, _pid, reason} ->
        {:something, input_ended(%{command | feeder: nil}, reason)}

      {:DOWN, ^supervisor, :process, _pid, _reason} ->
        {:something, step(command, {:fail, {:shutdown, :leash_stopped}})}
    after
      command.due |> soonest(ms) |> then(&soonest(command.reopens_at, &1)) -> due(command)
    end
  end

  defp descriptors([{_, one}, {_, other}]), do: {one, other}
  defp descriptors([{_, one}]), do: {one, one}
  defp descriptors([]), do: {nil, nil}

  defp soonest(nil, ms), do: ms
  defp soonest(due, ms), do: min(left(due), ms)

  defp due(command) do
    cond do
      due?(command.due) ->
        {:something, step(%{command | due: nil}, {:timeout, command.machine.timer})}

      due?(command.reopens_at) ->
        {:something, %{command | reopens_at: nil}}

      true ->
        {:nothing, command}
    end
  end

  defp due?(due), do: due != nil and left(due) == 0

  defp patience(%{ended: nil}, deadline), do: left(deadline)
  # The pipe contains what the tree wrote, so the deadline no longer counts.
  defp patience(%{kept_until: nil}, _deadline), do: @quiet_ms
  defp patience(%{kept_until: until}, deadline), do: min(left(until), left(deadline))

  defp left(:infinity), do: :infinity
  defp left(deadline), do: max(0, deadline - now())

  defp now, do: System.monotonic_time(:millisecond)

  ## The end

  @doc """
  Begins to end the tree, by its ladder or at once.

  `next/3` still returns what the tree writes until its end.
  """
  @spec finish(running(), :ladder | :kill) :: running()
  def finish(%Degraded.Command{} = command, how), do: Degraded.Command.finish(command, how)
  def finish(command, how), do: step(command, {:end, how})

  @doc "Ends the tree without reading its output, and returns when the tree is gone."
  @spec abort(running(), :ladder | :kill) :: ended()
  def abort(%Degraded.Command{} = command, how), do: Degraded.Command.abort(command, how)

  # If its terminal closed first, the program would get SIGHUP instead of the ladder's first step.
  def abort(%{ended: nil, terminal?: true} = command, how),
    do: command |> finish(how) |> discard()

  def abort(%{ended: nil} = command, how) do
    # The streams close first: a program that writes to no reader gets SIGPIPE, as in a shell.
    command |> close_all() |> finish(how) |> await_end()
  end

  def abort(command, _how), do: command |> close_all() |> release()

  defp discard(%{ended: nil} = command) do
    case next(command, @discard_bytes, :infinity) do
      {:data, _stream, _data, command} -> discard(command)
      {:input_failed, _kind, _reason, _stacktrace, command} -> discard(command)
      {:ended, ended, _command} -> ended
    end
  end

  defp discard(command), do: command |> close_all() |> release()

  defp await_end(%{ended: nil} = command),
    do: command |> await([], :infinity) |> elem(1) |> await_end()

  defp await_end(command), do: release(command)

  @doc """
  Ends the tree by its ladder from a process that is not the owner. Returns when the tree is gone.
  """
  @spec abandon(running()) :: :ok
  def abandon(%Degraded.Command{} = command), do: Degraded.Command.abandon(command)

  def abandon(command) do
    _ = Leash.StopAll.stop(command.channel.number, :infinity)
    :ok
  end

  # A command is over only when its output has ended, too: a background process may hold it.
  defp end_rest(%{streams: [], machine: %{exited: exited, ending: nil}} = command)
       when exited != nil,
       do: step(command, {:end, :ladder})

  defp end_rest(command), do: command

  defp over(command), do: {:ended, release(command), command}

  # No message stays behind.
  defp release(command) do
    :ok = stop_feeder(command.feeder)
    :ok = Native.close(command.channel.fd)
    Process.demonitor(command.supervisor, [:flush])
    Reaper.release(command.channel.number)
    command.ended
  end

  defp close_all(command), do: Enum.reduce(command.streams, command, &close(&2, &1))

  defp close(command, {_stream, fd} = this) do
    :ok = Native.close(fd)
    end_rest(%{command | streams: List.delete(command.streams, this)})
  end

  ## Input

  # A source of input that failed ends the command.
  defp input_ended(command, :normal), do: command

  defp input_ended(command, {:shutdown, {:input, kind, reason, stacktrace}}),
    do: step(%{command | input_failed: {kind, reason, stacktrace}}, {:end, :ladder})

  # The writer was ended by a process linked to the source, such as a task. Input is missing.
  defp input_ended(command, reason),
    do: step(%{command | input_failed: {:exit, reason, []}}, {:end, :ladder})

  # What was typed last is not known, so the end may only finish a line.
  defp type_eof(%{terminal?: true, streams: [{_stream, fd}]}) do
    _taken = Native.fd_write(fd, Terminal.eof(fd, nil))
    :ok
  end

  defp type_eof(_command), do: :ok

  # The source of the input may wait for something that never comes.
  defp stop_feeder(nil), do: :ok

  defp stop_feeder({pid, monitor}) do
    Process.exit(pid, :kill)
    Process.demonitor(monitor, [:flush])
    :ok
  end

  ## Steps of the machine

  defp read_channel(command) do
    {events, channel} = Channel.read(command.channel)
    # After all events: an exit and the word that nothing is left come together.
    end_rest(steps(%{command | channel: channel}, events))
  end

  defp steps(command, events), do: Enum.reduce(events, command, &step(&2, &1))

  defp step(command, event) do
    {machine, actions} = Machine.handle(event, command.machine)
    actions |> Enum.reduce(%{command | machine: machine}, &act/2) |> exited(event)
  end

  # Neither what outlives the program nor the clock changes how the program ended.
  defp exited(command, {:report, {:exited, how}}) do
    by_itself? = command.machine.ending == nil and how != :unknown
    if by_itself?, do: %{command | by_itself: how}, else: command
  end

  defp exited(command, _event), do: command

  defp act({:timer, _name, ms}, command), do: %{command | due: now() + ms}
  defp act(:cancel_timer, command), do: %{command | due: nil}

  defp act(:hunt, command) do
    spec = Cleanup.of_workers(command.run, [command.channel.number])
    {_pid, monitor} = Cleanup.start(spec, command.channel.pidfd || :unknown)
    %{command | hunt: monitor}
  end

  # Not earlier: if the start fails, the input's source must not have had side effects.
  defp act(:started, command) do
    Telemetry.worker(:start, command.channel.number)
    Telemetry.worker(:ready, command.channel.number)
    _ = command.feeder && InputFeeder.feed(elem(command.feeder, 0))
    command
  end

  # The pipe closes with its owner. The source may be at work on the next part, and then reads no
  # message.
  defp act(:close_stdin, command) do
    :ok = stop_feeder(command.feeder)
    :ok = type_eof(command)
    %{command | feeder: nil}
  end

  defp act({:unproven, reason}, command) do
    Logger.error(
      "Leash could not look for what command #{inspect(command.label)} left: #{inspect(reason)}"
    )

    command
  end

  defp act(:over, %{machine: machine} = command) do
    log(command, machine)
    kept? = match?({:ok, %Exit{cause: :kept}}, machine.result)
    # A kept process that holds the output is awaited, as before the end.
    until = if kept?, do: deadline(command.machine.linger)
    %{command | ended: ended(command, machine), kept_until: until}
  end

  # There are no readers of pipes.
  defp act(outputs, command) when outputs in [:finish_outputs, :leave_outputs], do: command
  defp act(action, command), do: %{command | channel: Channel.act(command.channel, action)}

  # The program was not yet known to run when its time was over.
  defp ended(_command, %{failure: :start_timeout}), do: {:error, :start_timeout}
  defp ended(%{by_itself: how}, _machine) when how != nil, do: {:by_itself, how}
  defp ended(_command, machine), do: {:ended, seen(machine.exited, machine.result)}

  defp seen({_status_or_signal, _value} = how, _result), do: how
  defp seen(_unseen, {:ok, %Exit{status: status}}) when status != nil, do: {:status, status}
  defp seen(_unseen, {:ok, %Exit{signal: signal}}) when signal != nil, do: {:signal, signal}
  defp seen(_unseen, _result), do: {:signal, :sigkill}

  defp log(command, %{os_pid: pid, result: {:error, %{survivors: survivors}}}) when pid != nil do
    Logger.warning(
      "Leash could not end all of command #{inspect(command.label)}: " <>
        if(survivors == [],
          do: "whether anything is left cannot be seen",
          else: Enum.map_join(survivors, ", ", &"#{&1.pid} (#{inspect(&1.command)}, #{&1.why})")
        )
    )
  end

  defp log(command, %{os_pid: pid, exited: nil, failure: :shim_died}) when pid != nil do
    Logger.warning(
      "Leash has not seen how command #{inspect(command.label)} ended (shim_died); its " <>
        "status is that of SIGKILL"
    )
  end

  defp log(_command, _machine), do: :ok

  @doc "Returns the status as a shell does: 128 and the number for a signal (POSIX, 2.8.2)."
  @spec status(how()) :: 0..255
  def status({:status, status}), do: status

  def status({:signal, signal}) do
    {:ok, number} = Signal.number(signal)
    128 + number
  end
end
