defmodule Leash.Command do
  # One program that runs for its caller, which reads its output: what `Leash.cmd/3` and
  # `Leash.stream!/3` share.
  #
  # The caller itself holds the leash and the pipes' read ends. So nothing is copied between
  # processes, a caller that does not read holds back the program, and no process is started. It
  # carries out what `Leash.Worker.Machine` decides while it waits in `next/3`. The caller's end,
  # whatever its reason, ends the tree: its descriptors close, and the Reaper does the rest.
  @moduledoc false

  alias Leash.{Cleanup, Descriptor, Exit, Native, Reaper, Registry, Signal, Telemetry}
  alias Leash.Stdio.InputFeeder
  alias Leash.Worker.{Channel, Launch, Machine}

  require Logger

  @enforce_keys [:owner, :run, :number, :label, :machine, :channel]
  defstruct [
    :owner,
    :run,
    :number,
    :label,
    :machine,
    :channel,
    :supervisor,
    :hunt,
    # when the machine's timer is over
    :due,
    # process and monitor of what writes the input
    :feeder,
    :input_failed,
    :linger,
    # how it exited before anything was done to end it
    :by_itself,
    :ended,
    :kept_until,
    streams: []
  ]

  @type stream :: :stdout | :stderr
  @type how :: {:status, byte()} | {:signal, Signal.t()}

  @typedoc """
  How a program ended: by itself, or after something was done to end it.

  If that was not seen, because its shim was killed or because the program is among what could not
  be ended, then SIGKILL stands for it.
  """
  @type ended :: {:by_itself | :ended, how()} | {:error, term()}

  @type t :: %__MODULE__{
          owner: pid(),
          run: Leash.Run.t(),
          number: pos_integer(),
          label: String.t(),
          machine: Machine.t(),
          channel: Channel.t(),
          supervisor: reference(),
          hunt: reference() | nil,
          due: integer() | nil,
          feeder: {pid(), reference()} | nil,
          input_failed: nil | {:error | :throw | :exit, term(), Exception.stacktrace()},
          linger: timeout(),
          by_itself: how() | nil,
          ended: ended() | nil,
          kept_until: integer() | :infinity | nil,
          streams: [{stream(), Native.fd()}]
        }

  @typedoc "What `next/3` brings; `:ended` comes last, once the tree is gone and the output is read."
  @type event ::
          {:data, stream(), binary(), t()}
          | {:input_failed, :error | :throw | :exit, term(), Exception.stacktrace(), t()}
          | {:ended, ended(), t()}
          | {:timeout, t()}

  # Nothing of the tree is left, but another process may hold the other end of a pipe. What the tree
  # wrote is in it already; what still comes within this time is taken too.
  @quiet_ms 100

  ## Start

  @doc """
  Starts a program; the options are those of `Leash.Command.Options`. Errors are those of
  `Leash.Worker`.
  """
  @spec start(map()) :: {:ok, t()} | {:error, term()}
  def start(options) do
    with {:ok, launched} <- Launch.run(options, :command, nil) do
      {events, channel} = Channel.new(launched.run.id, launched.number, launched.started)

      launched
      |> new(channel, options)
      |> open(launched.started.ends, options.input)
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
      number: launched.number,
      label: launched.label,
      machine: %Machine{
        stop: options.stop,
        linger: options.linger,
        on_crash: options.on_crash,
        # The shim's last report is the proof; its exit is nothing to wait for.
        await_exit?: false
      },
      channel: channel,
      # When it is gone, nothing would answer for the tree after this process.
      supervisor: Registry.monitor_owner(),
      linger: options.linger
    }
  end

  defp open(command, ends, input) do
    streams = for stream <- [:stdout, :stderr], fd = ends[stream], do: {stream, fd}
    feeder = if ends.stdin, do: InputFeeder.start(ends.stdin, input)
    %{command | streams: streams, feeder: feeder}
  end

  defp await_start(%{machine: %{phase: :done}} = command, _deadline), do: command

  # What failed is gone before its caller is told.
  defp await_start(%{machine: %{failure: failure}} = command, _deadline) when failure != nil,
    do: command |> await([], :infinity) |> elem(1) |> await_start(:infinity)

  defp await_start(%{machine: %{os_pid: nil}} = command, deadline) do
    case left(deadline) do
      0 -> command |> step({:fail, :start_timeout}) |> await_start(:infinity)
      ms -> command |> await([], ms) |> elem(1) |> await_start(deadline)
    end
  end

  defp await_start(command, _deadline), do: command

  # The program ran, so what became of it is the command's result and no error of the start.
  defp started(%{machine: %{os_pid: pid}} = command) when pid != nil, do: {:ok, command}

  defp started(%{machine: machine} = command) do
    _ended = command |> close_all() |> release()

    case Machine.outcome(machine) do
      {:reason, reason} -> {:error, reason}
      {:exit, exit} -> {:error, {:exited, exit}}
    end
  end

  @doc "The deadline of so many milliseconds, for `next/3`."
  @spec deadline(timeout()) :: integer() | :infinity
  def deadline(:infinity), do: :infinity
  def deadline(ms), do: now() + ms

  ## What happens next

  @doc """
  Waits for what happens next, until a deadline in monotonic milliseconds. Data come in parts of at
  most `max` bytes.
  """
  @spec next(t(), pos_integer(), integer() | :infinity) :: event()
  def next(%{input_failed: {kind, reason, stacktrace}} = command, _max, _deadline),
    do: {:input_failed, kind, reason, stacktrace, %{command | input_failed: nil}}

  def next(command, max, deadline) do
    # What is written without a pause leaves no moment to wait in.
    cond do
      patience(command, deadline) > 0 -> read(command, command.streams, max, deadline)
      command.ended == nil -> late(command, max, deadline)
      true -> command |> close_all() |> over()
    end
  end

  # The time is over. An end that came in time is still to be taken.
  defp late(command, max, deadline) do
    case await(command, [], 0) do
      {_happened, %{ended: nil} = command} -> {:timeout, command}
      {_happened, command} -> next(command, max, deadline)
    end
  end

  # Nothing to read at the moment, or nothing any more.
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
        {:something, step(%{command | hunt: nil}, {:proof, verdict})}

      {:DOWN, ^feeding, :process, _pid, reason} ->
        {:something, input_ended(%{command | feeder: nil}, reason)}

      {:DOWN, ^supervisor, :process, _pid, _reason} ->
        {:something, step(command, {:fail, {:shutdown, :leash_stopped}})}
    after
      soonest(command.due, ms) -> due(command)
    end
  end

  defp descriptors([{_, one}, {_, other}]), do: {one, other}
  defp descriptors([{_, one}]), do: {one, one}
  defp descriptors([]), do: {nil, nil}

  defp soonest(nil, ms), do: ms
  defp soonest(due, ms), do: min(left(due), ms)

  defp due(%{due: due} = command) do
    if due != nil and left(due) == 0,
      do: {:something, step(%{command | due: nil}, {:timeout, command.machine.timer})},
      else: {:nothing, command}
  end

  defp patience(%{ended: nil}, deadline), do: left(deadline)
  # What the tree wrote is in the pipe, however long its reader takes for it.
  defp patience(%{kept_until: nil}, _deadline), do: @quiet_ms
  defp patience(%{kept_until: until}, deadline), do: min(left(until), left(deadline))

  defp left(:infinity), do: :infinity
  defp left(deadline), do: max(0, deadline - now())

  defp now, do: System.monotonic_time(:millisecond)

  ## The end

  @doc """
  Begins to end the tree, by its ladder or at once. `next/3` goes on bringing what it still writes.
  """
  @spec finish(t(), :ladder | :kill) :: t()
  def finish(command, how), do: step(command, {:end, how})

  @doc "Ends the tree, whatever it still writes, and returns when it is gone."
  @spec abort(t(), :ladder | :kill) :: ended()
  def abort(%{ended: nil} = command, how) do
    # Closed first: a program that writes for no reader is told so (SIGPIPE), as in a shell.
    command |> close_all() |> finish(how) |> await_end()
  end

  def abort(command, _how), do: command |> close_all() |> release()

  defp await_end(%{ended: nil} = command),
    do: command |> await([], :infinity) |> elem(1) |> await_end()

  defp await_end(command), do: release(command)

  @doc """
  Ends the tree by its ladder from another process than the owner, and returns when it is gone.
  """
  @spec abandon(t()) :: :ok
  def abandon(command) do
    _ = Leash.StopAll.stop(command.number, :infinity)
    :ok
  end

  # Only when its output has ended too is a command over: a background process may hold it.
  defp end_rest(%{streams: [], machine: %{exited: exited, ending: nil}} = command)
       when exited != nil,
       do: step(command, {:end, :ladder})

  defp end_rest(command), do: command

  defp over(command), do: {:ended, release(command), command}

  # Leaves no message behind.
  defp release(command) do
    :ok = stop_feeder(command.feeder)
    :ok = Descriptor.close(command.channel.fd)
    Process.demonitor(command.supervisor, [:flush])
    Reaper.release(command.number)
    command.ended
  end

  defp close_all(command), do: Enum.reduce(command.streams, command, &close(&2, &1))

  defp close(command, {_stream, fd} = this) do
    :ok = Descriptor.close(fd)
    end_rest(%{command | streams: List.delete(command.streams, this)})
  end

  ## Input

  # A source of input that failed ends the command.
  defp input_ended(command, :normal), do: command

  defp input_ended(command, {:shutdown, {:input, kind, reason, stacktrace}}),
    do: step(%{command | input_failed: {kind, reason, stacktrace}}, {:end, :ladder})

  # Ended by a process that the source is linked to, such as a task: the rest of it is missing.
  defp input_ended(command, reason),
    do: step(%{command | input_failed: {:exit, reason, []}}, {:end, :ladder})

  # The source of the input may be waiting for something that never comes.
  defp stop_feeder(nil), do: :ok

  defp stop_feeder({pid, monitor}) do
    Process.exit(pid, :kill)
    Process.demonitor(monitor, [:flush])
    :ok
  end

  ## Steps of the machine

  defp read_channel(command) do
    {events, channel} = Channel.read(command.channel)
    # Not between an exit and the word that nothing is left, which come together.
    end_rest(steps(%{command | channel: channel}, events))
  end

  defp steps(command, events), do: Enum.reduce(events, command, &step(&2, &1))

  defp step(command, event) do
    {machine, actions} = Machine.handle(event, command.machine)
    actions |> Enum.reduce(%{command | machine: machine}, &act/2) |> exited(event)
  end

  # What outlives the program has no say in how it ended, and neither has the clock.
  defp exited(command, {:report, {:exited, how}}) do
    by_itself? = command.machine.ending == nil and how != :unknown
    if by_itself?, do: %{command | by_itself: how}, else: command
  end

  defp exited(command, _event), do: command

  defp act({:row, changes}, command) do
    Registry.change(command.number, changes)
    command
  end

  defp act({:ask, how}, command), do: %{command | channel: Channel.ask(command.channel, how)}

  defp act({:signal, how}, command),
    do: %{command | channel: Channel.signal(command.channel, how)}

  defp act(:close, command), do: %{command | channel: Channel.close(command.channel)}
  defp act({:timer, _name, ms}, command), do: %{command | due: now() + ms}
  defp act(:cancel_timer, command), do: %{command | due: nil}

  defp act(:hunt, command) do
    spec = Cleanup.of_workers(command.run, [command.number])
    {_pid, monitor} = Cleanup.start(spec, command.channel.pidfd || :unknown)
    %{command | hunt: monitor}
  end

  # Not before: what the source of a command's input does is done for nothing otherwise.
  defp act(:started, command) do
    Telemetry.worker(:start, command.number)
    Telemetry.worker(:ready, command.number)
    _ = command.feeder && InputFeeder.feed(elem(command.feeder, 0))
    command
  end

  # The pipe closes with its owner. The source may be at work on the next part, and heeds nothing
  # else.
  defp act(:close_stdin, command) do
    :ok = stop_feeder(command.feeder)
    %{command | feeder: nil}
  end

  defp act({:telemetry, event}, command) do
    Telemetry.of_tree(command.number, event)
    command
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
    # What was kept and holds the output is waited for, as before the end.
    until = if kept?, do: deadline(command.linger)
    %{command | ended: ended(command, machine), kept_until: until}
  end

  # There are no readers of pipes.
  defp act(outputs, command) when outputs in [:finish_outputs, :leave_outputs], do: command

  # It was not yet known to run when its time was over.
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
      "Leash has not seen how command #{inspect(command.label)} ended (shim_died); its status is that of SIGKILL"
    )
  end

  defp log(_command, _machine), do: :ok

  @doc "The status as a shell says it: 128 and its number for a signal (POSIX, 2.8.2)."
  @spec status(how()) :: 0..255
  def status({:status, status}), do: status

  def status({:signal, signal}) do
    {:ok, number} = Signal.number(signal)
    128 + number
  end
end
