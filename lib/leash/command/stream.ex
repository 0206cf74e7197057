defmodule Leash.Command.Stream do
  # `Leash.stream!/3` and `Leash.stream/3` return a command's output on demand.
  @moduledoc false

  alias Leash.{Command, CommandError}
  alias Leash.Command.Collect
  alias Leash.Command.Options
  alias Leash.Stdio.Lines

  @type element :: binary() | {:stdout | :stderr, binary()}
  @type how :: {:status, 0..255} | {:signal, Leash.Signal.t()} | Command.timed_out()

  @doc """
  Returns a lazy stream.

  `last` is called with how the command ended. It returns the last elements, or raises.
  """
  @spec new(String.t(), [binary()], keyword(), (how() -> [term()])) :: Enumerable.t()
  def new(program, args, options, last) do
    # Checked now, so that a mistake is reported where it was made and not where the stream runs.
    {own, worker} = Options.validate!(Options.stream(), program, args, options)

    Stream.resource(
      fn -> start(own, worker) end,
      &pull(&1, own, last),
      &stop/1
    )
  end

  @doc "The last elements of `Leash.stream/3`."
  @spec last(how()) :: [{:exit, how()}]
  def last(how), do: [{:exit, how}]

  @doc "Returns the `last` of `Leash.stream!/3`, which returns no element or raises."
  @spec last!(String.t()) :: (how() -> [])
  def last!(program) do
    fn
      {:status, 0} -> []
      how -> raise CommandError, program: program, how: how
    end
  end

  # states: {:running, reading} → {:last, how} → :over
  #                             → {:failed, kind, reason, stacktrace}
  #
  # The next pull calls the function that raises. The stream's clean-up gets the state before the
  # failure, and must not end a command twice.
  #
  # A running command belongs to its owner: only the process that began it may read the next part.
  defp start(own, worker) do
    case Command.start(worker) do
      {:ok, command} -> {:running, reading(command, own)}
      {:error, :start_timeout} -> {:last, :timeout}
      {:error, {:survivors, _list}} -> {:last, :timeout}
      {:error, reason} -> Collect.failed(reason)
    end
  end

  defp reading(command, own) do
    lines = if own.lines, do: Lines.new(own.lines)

    %{
      command: command,
      limits: Command.limits(own.timeout, own.idle),
      timed_out: nil,
      lines: if(lines, do: %{stdout: lines, stderr: lines})
    }
  end

  defp pull(:over, _own, _last), do: {:halt, :over}
  defp pull({:last, how}, _own, last), do: {last.(how), :over}

  defp pull({:failed, kind, reason, stacktrace}, _own, _last),
    do: :erlang.raise(kind, reason, stacktrace)

  defp pull({:running, %{command: %{owner: owner}}}, _own, _last) when owner != self() do
    raise "a stream of Leash can be continued only by the process that began to read it, " <>
            "#{inspect(owner)}: that process has the command's output"
  end

  defp pull({:running, reading}, own, last) do
    until = Command.until(reading.limits)

    case Command.next(reading.command, own.max_chunk_size, until) do
      {:data, stream, data, command} ->
        {data, reading} = cut(%{reading | command: command}, stream, data)
        {elements(stream, data, own), {:running, reading}}

      {:timeout, command} ->
        reached = Command.reached(reading.limits)
        command = Command.finish(command, :ladder)
        reading = %{reading | command: command, limits: {:infinity, :infinity}}
        pull({:running, %{reading | timed_out: reached}}, own, last)

      {:ended, ended, _command} ->
        {last_lines(reading.lines, own), {:last, how(ended, reading)}}

      {:input_failed, kind, reason, stacktrace, command} ->
        _ended = Command.abort(command, :ladder)
        {[], {:failed, kind, reason, stacktrace}}
    end
  end

  defp how({:error, :start_timeout}, _reading), do: :timeout
  defp how({:ended, _how}, %{timed_out: reached}) when reached != nil, do: reached
  defp how({_when, how}, _reading), do: how

  defp cut(%{lines: nil} = reading, _stream, data), do: {[data], reading}

  defp cut(%{lines: lines} = reading, stream, data) do
    {ended, cutter} = Lines.push(Map.fetch!(lines, stream), data)
    {ended, %{reading | lines: %{lines | stream => cutter}}}
  end

  defp last_lines(nil, _own), do: []

  defp last_lines(lines, own) do
    Enum.flat_map([:stdout, :stderr], &elements(&1, Lines.finish(Map.fetch!(lines, &1)), own))
  end

  defp elements(stream, data, %{stderr: :stream, stderr_to_stdout: false}),
    do: Enum.map(data, &{stream, &1})

  defp elements(_stdout, data, _own), do: data

  defp stop({:running, %{command: %{owner: owner} = command}}) when owner != self(),
    do: Command.abandon(command)

  defp stop({:running, %{command: command}}) do
    _ended = Command.abort(command, :ladder)
    :ok
  end

  defp stop(_ended), do: :ok
end
