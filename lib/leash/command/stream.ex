defmodule Leash.Command.Stream do
  # `Leash.stream!/3` and `Leash.stream/3` return a command's output on demand.
  @moduledoc false

  alias Leash.{Command, CommandError}
  alias Leash.Command.Collect
  alias Leash.Command.Options

  @type element :: binary() | {:stdout | :stderr, binary()}
  @type how :: {:status, 0..255} | {:signal, Leash.Signal.t()} | :timeout

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

  # states: {:running, command, deadline, timed_out?} → {:last, how} → :over
  #                                                   → {:failed, kind, reason, stacktrace}
  #
  # The next pull calls the function that raises. The stream's clean-up gets the state before the
  # failure, and must not end a command twice.
  #
  # A running command belongs to its owner: only the process that began it may read the next part.
  defp start(own, worker) do
    case Command.start(worker) do
      {:ok, command} -> {:running, command, Command.deadline(own.timeout), false}
      {:error, :start_timeout} -> {:last, :timeout}
      {:error, {:survivors, _list}} -> {:last, :timeout}
      {:error, reason} -> Collect.failed(reason)
    end
  end

  defp pull(:over, _own, _last), do: {:halt, :over}
  defp pull({:last, how}, _own, last), do: {last.(how), :over}

  defp pull({:failed, kind, reason, stacktrace}, _own, _last),
    do: :erlang.raise(kind, reason, stacktrace)

  defp pull({:running, %{owner: owner}, _deadline, _timed_out?}, _own, _last)
       when owner != self() do
    raise "a stream of Leash can be continued only by the process that began to read it, " <>
            "#{inspect(owner)}: that process has the command's output"
  end

  defp pull({:running, command, deadline, timed_out?}, own, last) do
    case Command.next(command, own.max_chunk_size, deadline) do
      {:data, stream, data, command} ->
        {[element(stream, data, own)], {:running, command, deadline, timed_out?}}

      {:timeout, command} ->
        pull({:running, Command.finish(command, :ladder), :infinity, true}, own, last)

      {:ended, {:error, :start_timeout}, _command} ->
        {[], {:last, :timeout}}

      {:ended, {:ended, _how}, _command} when timed_out? ->
        {[], {:last, :timeout}}

      {:ended, {_when, how}, _command} ->
        {[], {:last, how}}

      {:input_failed, kind, reason, stacktrace, command} ->
        _ended = Command.abort(command, :ladder)
        {[], {:failed, kind, reason, stacktrace}}
    end
  end

  defp element(stream, data, %{stderr: :stream, stderr_to_stdout: false}), do: {stream, data}
  defp element(_stdout, data, _own), do: data

  defp stop({:running, %{owner: owner} = command, _deadline, _timed_out?}) when owner != self(),
    do: Command.abandon(command)

  defp stop({:running, command, _deadline, _timed_out?}) do
    _ended = Command.abort(command, :ladder)
    :ok
  end

  defp stop(_ended), do: :ok
end
