defmodule Leash.Command.Collect do
  # `Leash.cmd/3`: runs a command to its end and collects what it writes.
  @moduledoc false

  alias Leash.Command
  alias Leash.Command.Options
  alias Leash.Stdio.Lines

  @read_bytes 65_536

  # Stages of a start for which System.cmd/3 has no option, so their errno alone says too little.
  @rights [:ids, :kill, :capabilities]

  @type status :: 0..255 | Command.timed_out() | :max_output

  @spec run(String.t(), [binary()], keyword()) ::
          {Collectable.t() | {Collectable.t(), binary()}, status()}
  def run(program, args, options) do
    {own, worker} = Options.validate!(Options.cmd(), program, args, options)
    limits = Command.limits(own.timeout, own.idle)
    {initial, collect} = Collectable.into(own.into)

    state = %{
      collected: initial,
      collect: collect,
      lines: if(own.lines, do: Lines.new(own.lines)),
      stderr: [],
      left: own.max_output
    }

    case Command.start(worker) do
      {:ok, command} ->
        {ended, status, state} = collect(command, state, limits)
        finished(ended, status, state, own)

      # The program did not reach its exec in time. It is gone or can only be waited for (state
      # D).
      {:error, :start_timeout} ->
        result(state, :timeout, own)

      {:error, {:survivors, _list}} ->
        result(state, :timeout, own)

      {:error, reason} ->
        halted(state, reason)
    end
  end

  # Closes what the Collectable has opened.
  @spec halted(map(), term()) :: no_return()
  defp halted(state, reason) do
    state.collect.(state.collected, :halt)
    failed(reason)
  end

  # The program exited before its time was over. What held its output had to be ended.
  defp finished({:by_itself, how}, status, state, own) when status != :max_output,
    do: result(state, Command.status(how), own)

  defp finished({:error, :start_timeout}, _status, state, own), do: result(state, :timeout, own)

  defp finished({_when, how}, status, state, own),
    do: result(state, status || Command.status(how), own)

  defp collect(command, state, limits) do
    case Command.next(command, @read_bytes, Command.until(limits)) do
      {:data, stream, data, command} ->
        case taken(stream, data, command, state) do
          {:ok, state} -> collect(command, state, limits)
          {:full, state} -> {Command.abort(command, :ladder), :max_output, state}
        end

      {:timeout, command} ->
        reached = Command.reached(limits)
        command = Command.finish(command, :ladder)
        {ended, _status, state} = collect(command, state, {:infinity, :infinity})
        {ended, reached, state}

      {:ended, ended, _command} ->
        {ended, nil, state}

      {:input_failed, kind, reason, stacktrace, command} ->
        aborted(command, state, kind, reason, stacktrace)
    end
  end

  defp taken(stream, data, command, state) do
    take(stream, data, state)
  catch
    kind, reason -> aborted(command, state, kind, reason, __STACKTRACE__)
  end

  # If the Collectable or the source of the input raises, the tree ends first.
  @spec aborted(Command.t(), map(), :error | :exit | :throw, term(), list()) :: no_return()
  defp aborted(command, state, kind, reason, stacktrace) do
    _ended = Command.abort(command, :ladder)
    state.collect.(state.collected, :halt)
    :erlang.raise(kind, reason, stacktrace)
  end

  defp take(stream, data, %{left: left} = state) when byte_size(data) > left,
    do: {:full, put(stream, binary_part(data, 0, left), %{state | left: 0})}

  defp take(stream, data, %{left: :infinity} = state), do: {:ok, put(stream, data, state)}

  defp take(stream, data, state),
    do: {:ok, put(stream, data, %{state | left: state.left - byte_size(data)})}

  defp put(_stream, "", state), do: state
  defp put(:stderr, data, state), do: %{state | stderr: [state.stderr, data]}

  defp put(:stdout, data, %{lines: nil} = state), do: put_element(data, state)

  defp put(:stdout, data, state) do
    {ended, lines} = Lines.push(state.lines, data)
    Enum.reduce(ended, %{state | lines: lines}, &put_element/2)
  end

  defp put_element(element, state),
    do: %{state | collected: state.collect.(state.collected, {:cont, element})}

  defp result(state, status, own) do
    last = if state.lines, do: Lines.finish(state.lines), else: []
    state = Enum.reduce(last, state, &put_element/2)
    output = state.collect.(state.collected, :done)

    if own.stderr == :capture and not own.stderr_to_stdout,
      do: {{output, IO.iodata_to_binary(state.stderr)}, status},
      else: {output, status}
  end

  @doc false
  # Raises what `System.cmd/3` raises if the system refuses, and `Leash.Error` otherwise.
  @spec failed(term()) :: no_return()
  def failed({stage, posix} = reason) when is_atom(stage) and is_atom(posix) do
    if posix == :no_working_directory or stage in @rights,
      do: raise(Leash.Error, reason: reason),
      else: :erlang.error(posix)
  end

  def failed(reason), do: raise(Leash.Error, reason: reason)
end
