defmodule Leash.Stream do
  # `Leash.stream!/3` and `Leash.stream/3`: a command's output as it is asked for.
  @moduledoc false

  alias Leash.{Cmd, Command, CommandError, Exit}
  alias Leash.Command.Options

  @type element :: binary() | {:stdout | :stderr, binary()}
  @type how :: {:status, 0..255} | {:signal, Leash.Signal.t()} | :timeout

  @doc "A lazy stream; `last` is called with how the command ended and returns the last elements, or raises."
  @spec new(String.t(), [binary()], keyword(), (how() -> [term()])) :: Enumerable.t()
  def new(program, args, options, last) do
    # Checked now: a mistake is reported where it was made, and not where the stream is run.
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

  @doc "The last elements of `Leash.stream!/3`: none, or it raises."
  @spec last!(String.t()) :: (how() -> [])
  def last!(program) do
    fn
      {:status, 0} -> []
      how -> raise CommandError, program: program, how: how
    end
  end

  # states: {:running, command, deadline, timed_out?} → {:last, how} → :over
  defp start(own, worker) do
    case Command.start(worker) do
      {:ok, command} -> {:running, command, Command.deadline(own.timeout), false}
      {:error, :start_timeout} -> {:last, :timeout}
      {:error, reason} -> Cmd.failed(reason)
    end
  end

  defp pull(:over, _own, _last), do: {:halt, :over}
  defp pull({:last, how}, _own, last), do: {last.(how), :over}

  defp pull({:running, command, deadline, timed_out?}, own, last) do
    case Command.next(command, own.max_chunk_size, deadline) do
      {:data, stream, data, command} ->
        {[element(stream, data, own)], {:running, command, deadline, timed_out?}}

      {:timeout, command} ->
        Command.finish(command, :ladder)
        pull({:running, command, :infinity, true}, own, last)

      {:ended, {:ok, exit}, _command} ->
        {[], {:last, if(timed_out?, do: :timeout, else: how(exit))}}

      {:ended, {:error, :start_timeout}, _command} ->
        {[], {:last, :timeout}}

      {:ended, {:error, reason}, _command} ->
        Cmd.failed(reason)

      # The stream's own clean-up ends the tree.
      {:input_failed, kind, reason, stacktrace, _command} ->
        :erlang.raise(kind, reason, stacktrace)
    end
  end

  defp element(stream, data, %{stderr: :stream, stderr_to_stdout: false}), do: {stream, data}
  defp element(_stdout, data, _own), do: data

  defp how(%Exit{status: nil, signal: signal}), do: {:signal, signal}
  defp how(%Exit{status: status}), do: {:status, status}

  defp stop({:running, command, _deadline, _timed_out?}) do
    _ended = Command.abort(command, :ladder)
    :ok
  end

  defp stop(_ended), do: :ok
end
