defmodule Leash.Command do
  # One program that runs for its caller, who reads its output: what `Leash.cmd/3` and `Leash.stream!/3` share.
  #
  # A Worker without a link holds the leash and answers for the tree; the caller owns the pipes' read ends and
  # takes from them as much as it wants, so that nothing is copied between processes and a caller who does not
  # read holds back the program. The Worker monitors the caller: its end ends the tree.
  @moduledoc false

  alias Leash.{Native, Signal, Worker}
  alias Leash.Worker.Client

  @enforce_keys [:ref, :owner, :worker, :monitor]
  defstruct [
    :ref,
    :owner,
    :worker,
    :monitor,
    :linger,
    :ended,
    :kept_until,
    streams: [],
    done?: false
  ]

  @type stream :: :stdout | :stderr
  @type ended :: Client.ended() | {:error, {:worker_down, term()}}
  @type t :: %__MODULE__{
          ref: reference(),
          owner: pid(),
          worker: pid(),
          monitor: reference(),
          linger: timeout(),
          ended: ended() | nil,
          kept_until: integer() | :infinity | nil,
          streams: [{stream(), Native.fd()}],
          done?: boolean()
        }

  @typedoc "What `next/3` brings; `:ended` comes last, once the tree is gone and the output is read."
  @type event ::
          {:data, stream(), binary(), t()}
          | {:input_failed, :error | :throw | :exit, term(), Exception.stacktrace(), t()}
          | {:ended, ended(), t()}
          | {:timeout, t()}

  # Nothing of the tree is left, but somebody outside may hold the other end of a pipe. What the tree wrote is in
  # it already; what still comes within this time is taken too.
  @quiet_ms 100

  @doc "Starts a program; the options are those of `Leash.Command.Options`. Errors are those of `Leash.Worker`."
  @spec start(map()) :: {:ok, t()} | {:error, term()}
  def start(options) do
    ref = make_ref()

    case Worker.start_for({self(), ref}, options) do
      {:ok, worker} ->
        command = %__MODULE__{
          ref: ref,
          owner: self(),
          worker: worker,
          monitor: Process.monitor(worker),
          linger: options.linger
        }

        piped? = options.stdout == :output or options.stderr == :output
        {:ok, if(piped?, do: await_streams(command), else: output_done(command))}

      {:error, reason} ->
        flush(ref)
        {:error, reason}
    end
  end

  defp await_streams(%{ref: ref, monitor: monitor} = command) do
    receive do
      {^ref, {:streams, streams}} ->
        output_done(%{command | streams: streams})

      {:DOWN, ^monitor, :process, _pid, reason} ->
        %{command | ended: {:error, {:worker_down, reason}}, done?: true}
    end
  end

  @doc "The deadline of so many milliseconds, for `next/3`."
  @spec deadline(timeout()) :: integer() | :infinity
  def deadline(:infinity), do: :infinity
  def deadline(ms), do: System.monotonic_time(:millisecond) + ms

  @doc "Waits for what happens next, until a deadline in monotonic milliseconds. Data come in parts of at most `max` bytes."
  @spec next(t(), pos_integer(), integer() | :infinity) :: event()
  def next(command, max, deadline) do
    # What is written without a pause leaves no moment to wait in.
    cond do
      patience(command, deadline) > 0 -> read(command, command.streams, max, deadline)
      command.ended == nil -> late(command, max, deadline)
      true -> command |> close_all() |> over()
    end
  end

  # The time is over. An end that came in time is still to be taken.
  defp late(%{ref: ref} = command, max, deadline) do
    receive do
      {^ref, {:ended, _ended, _kept?} = message} ->
        command |> ended(message) |> next(max, deadline)
    after
      0 -> {:timeout, command}
    end
  end

  defp ended(command, {:ended, ended, kept?}) do
    # Its exit follows, and says less.
    Process.demonitor(command.monitor, [:flush])
    # What was kept and holds the output is waited for, as before the end.
    %{command | ended: ended, kept_until: if(kept?, do: deadline(command.linger))}
  end

  # Nothing to read at the moment, or nothing any more.
  defp read(command, [], _max, _deadline) when command.ended != nil and command.streams == [],
    do: over(command)

  defp read(command, [], max, deadline), do: wait(command, max, deadline)

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

  defp wait(%{ref: ref, monitor: monitor} = command, max, deadline) do
    ms = patience(command, deadline)
    {one, other} = descriptors(command.streams)

    receive do
      {:leash_fd, fd, :ready} when fd == one or fd == other ->
        next(command, max, deadline)

      {^ref, {:ended, _ended, _kept?} = message} ->
        command |> ended(message) |> next(max, deadline)

      {^ref, {:input, kind, reason, stacktrace}} ->
        {:input_failed, kind, reason, stacktrace, command}

      {:DOWN, ^monitor, :process, _pid, reason} ->
        # It says how it ended before it exits, so it was killed; the Reaper ends the tree.
        next(%{command | ended: {:error, {:worker_down, reason}}}, max, deadline)
    after
      ms ->
        if command.ended == nil,
          do: {:timeout, command},
          else: command |> close_all() |> over()
    end
  end

  defp descriptors([{_, one}, {_, other}]), do: {one, other}
  defp descriptors([{_, one}]), do: {one, one}
  defp descriptors([]), do: {nil, nil}

  defp patience(%{ended: nil}, deadline), do: left(deadline)
  # What the tree wrote is in the pipe, however long its reader takes for it.
  defp patience(%{kept_until: nil}, _deadline), do: @quiet_ms
  defp patience(%{kept_until: until}, deadline), do: min(left(until), left(deadline))

  defp left(:infinity), do: :infinity
  defp left(deadline), do: max(0, deadline - System.monotonic_time(:millisecond))

  @doc "Begins to end the tree: by its ladder, or at once. `next/3` goes on bringing what it still writes."
  @spec finish(t(), :ladder | :kill) :: :ok
  def finish(command, how) do
    send(command.worker, {:leash, {:end, how}})
    :ok
  end

  @doc "Ends the tree, whatever it still writes, and returns when it is gone."
  @spec abort(t(), :ladder | :kill) :: ended()
  def abort(%{ended: nil} = command, how) do
    # The caller may have an older copy of a command whose end was taken since: a new monitor says so.
    Process.demonitor(command.monitor, [:flush])
    # Closed first: who writes for nobody is told so (SIGPIPE), as in a shell.
    command = close_all(%{command | monitor: Process.monitor(command.worker)})
    finish(command, how)
    await_end(command)
  end

  def abort(command, _how), do: command |> close_all() |> release()

  @doc "Ends the tree by its ladder from another process than the owner, and returns when it is gone."
  @spec abandon(t()) :: :ok
  def abandon(command) do
    monitor = Process.monitor(command.worker)
    finish(command, :ladder)
    # The owner reads no more of it, and its end is not to be waited for.
    send(command.worker, {:leash, :output_done})

    receive do
      {:DOWN, ^monitor, :process, _pid, _reason} -> :ok
    end
  end

  defp await_end(command) do
    case next(command, 1, :infinity) do
      {:ended, ended, _command} -> ended
      {:input_failed, _kind, _reason, _stacktrace, command} -> await_end(command)
    end
  end

  defp over(command), do: {:ended, release(command), command}

  # Leaves no message behind.
  defp release(command) do
    Process.demonitor(command.monitor, [:flush])
    flush(command.ref)
    command.ended
  end

  defp flush(ref) do
    receive do
      {^ref, {:streams, streams}} ->
        for {_stream, fd} <- streams, do: close_fd(fd)
        flush(ref)

      {^ref, _message} ->
        flush(ref)
    after
      0 -> :ok
    end
  end

  defp close_all(command), do: Enum.reduce(command.streams, command, &close(&2, &1))

  defp close(command, {_stream, fd} = this) do
    close_fd(fd)
    output_done(%{command | streams: List.delete(command.streams, this)})
  end

  defp close_fd(fd) do
    Native.fd_close(fd)

    receive do
      {:leash_fd, ^fd, _what} -> :ok
    after
      0 -> :ok
    end
  end

  defp output_done(%{streams: [], done?: false} = command) do
    send(command.worker, {:leash, :output_done})
    %{command | done?: true}
  end

  defp output_done(command), do: command

  @doc "The status as a shell says it: 128 and its number for a signal (POSIX, 2.8.2)."
  @spec status(Client.how()) :: 0..255
  def status({:status, status}), do: status

  def status({:signal, signal}) do
    {:ok, number} = Signal.number(signal)
    128 + number
  end
end
