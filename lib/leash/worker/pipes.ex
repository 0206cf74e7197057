defmodule Leash.Worker.Pipes do
  # The VM's ends of the program's pipes: given to those that read and write them.
  @moduledoc false

  alias Leash.{Callback, Command, Native}
  alias Leash.Worker.{Client, Ending, Input, Output, State}

  @doc "Hands our ends of the pipes to those that read and write them. Once."
  @spec open(State.t()) :: State.t()
  def open(%{ends: ends} = state),
    do: %{state | ends: %{}} |> start_input(ends.stdin) |> start_outputs(ends)

  ## Input

  defp start_input(state, nil), do: state

  defp start_input(%{client: client} = state, fd) when client != nil do
    state = %{state | input: Command.Feeder.start_link(fd, state.options.input)}
    if state.os_pid, do: feed(state), else: state
  end

  defp start_input(state, fd) do
    {:ok, pid} = Input.start_link(fd)
    %{state | input: pid}
  end

  @doc "The program runs. Not before: what the source of a command's input does is done for nothing otherwise."
  @spec feed(State.t()) :: State.t()
  def feed(%{client: client, input: feeder} = state) when client != nil and feeder != nil do
    Command.Feeder.feed(feeder)
    state
  end

  def feed(state), do: state

  @doc "The ladder closes stdin: behind what was written, of a command's input at once."
  @spec close_input(State.t()) :: State.t()
  def close_input(%{input: nil} = state), do: state

  def close_input(%{client: nil, input: input} = state) do
    Input.close(input, nil)
    state
  end

  # The pipe closes with its owner. Its source may be at work on the next part, and heeds nothing else.
  def close_input(%{input: feeder} = state) do
    Process.unlink(feeder)
    Process.exit(feeder, :kill)

    # Its own end may have come before; it is no failure of the input any more.
    receive do
      {:EXIT, ^feeder, _reason} -> :ok
    after
      0 -> :ok
    end

    %{state | input: nil}
  end

  @doc "The process that writes to the program is gone. A source of input that failed ends the command."
  @spec input_ended(State.t(), term()) :: State.t()
  def input_ended(%{client: %{answered?: false}} = state, reason) when reason != :normal,
    do: %{state | input: nil} |> Client.tell(failed_input(reason)) |> Ending.begin(:ladder)

  def input_ended(state, _reason), do: %{state | input: nil}

  defp failed_input({:shutdown, {:input, _kind, _reason, _stacktrace} = failed}), do: failed

  # Ended by a process that the source is linked to, such as a task: the rest of it is missing.
  defp failed_input(reason), do: {:input, :exit, reason, []}

  @doc "Why nothing can be written."
  @spec no_input(State.t()) :: :epipe | :not_piped
  def no_input(%{options: %{stdin: :pipe}}), do: :epipe
  def no_input(_state), do: :not_piped

  ## Output

  defp start_outputs(state, %{stdout: nil, stderr: nil}), do: state

  defp start_outputs(%{client: client} = state, ends) when client != nil do
    streams = for stream <- [:stdout, :stderr], fd = ends[stream], do: {stream, fd}
    # A client that is gone needs no pipes.
    Enum.each(streams, fn {_stream, fd} -> Native.fd_give(fd, client.pid) end)
    Client.tell(state, {:streams, streams})
  end

  defp start_outputs(state, ends) do
    options = %{
      label: state.label,
      callers: Callback.callers(),
      ready: if(is_struct(state.options.ready, Regex), do: state.options.ready),
      window: state.options.output_window,
      limited?: state.ready?,
      traffic: state.traffic
    }

    outputs =
      for stream <- [:stdout, :stderr], fd = ends[stream], into: %{} do
        options = Map.merge(options, handler(state.options, stream))
        {:ok, pid} = Output.start_link(fd, stream, options)
        {pid, stream}
      end

    %{state | outputs: outputs}
  end

  @doc "Logs the handlers that have not taken everything in time; they go on by themselves."
  @spec leave_outputs(State.t()) :: State.t()
  def leave_outputs(state) do
    _logged =
      for stream <- Map.values(state.outputs),
          %{option: option, handler: function} when is_function(function) <-
            [handler(state.options, stream)],
          do: option |> Callback.new(state.label, function) |> Callback.log(:busy)

    state
  end

  defp handler(%{on_stderr: handler}, :stderr) when handler != nil,
    do: %{option: :on_stderr, handler: handler}

  defp handler(%{on_output: handler}, _stream), do: %{option: :on_output, handler: handler}

  @doc "The worker is ready: from now on its output is held back where nobody takes it."
  @spec limit_outputs(State.t()) :: State.t()
  def limit_outputs(state) do
    Enum.each(Map.keys(state.outputs), &Output.limit/1)
    state
  end

  @doc "The tree is gone: what the pipes still hold is read without waiting for more."
  @spec finish_outputs(State.t()) :: State.t()
  def finish_outputs(state) do
    Enum.each(Map.keys(state.outputs), &Output.finish/1)
    state
  end
end
