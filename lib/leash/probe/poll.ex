defmodule Leash.Probe.Poll do
  # Asks a question until the answer is good, in a process that ends with the Worker.
  @moduledoc false

  alias Leash.{Callback, Probe}

  # How long one question may take. Then the next one is asked.
  @ask_ms 1_000

  # No event reports that a process begins to listen, so this is the interval of the questions. A
  # function may cost more than a refused connection.
  @interval_ms 20
  @function_interval_ms 50

  @typedoc "A connection or a file, or a function with its arguments."
  @type question :: Probe.t() | {:file, Path.t()} | {Callback.t(), [term()]}

  @doc "Returns the question. A function is called with these arguments."
  @spec question(term(), [term()], atom(), String.t()) :: question()
  def question({kind, _target} = target, _arguments, _option, _label) when is_atom(kind),
    do: target

  def question(function, arguments, option, label),
    do: {Callback.new(option, label, function), arguments}

  @doc """
  Starts a process that asks until the answer is good, and then calls the function.

  If the Worker ends before that, the log says how the last call of a function failed.
  """
  @spec start_link(question(), pid(), (() -> term())) :: pid()
  def start_link(question, worker, good) do
    spawn_link(
      Callback.inherit(fn ->
        # The process of a function is linked to this one.
        Process.flag(:trap_exit, true)
        ask(question, Process.monitor(worker), good)
      end)
    )
  end

  defp ask(question, monitor, good) do
    case answer(question, monitor) do
      :ok ->
        good.()

      :stopped ->
        log(question, {:error, {:timeout, :infinity}})

      not_yet ->
        receive do
          {:DOWN, ^monitor, :process, _pid, _reason} -> log(question, not_yet)
        after
          pause(question) -> ask(question, monitor, good)
        end
    end
  end

  defp answer({%Callback{} = callback, arguments}, monitor) do
    result = Callback.run_within(callback, arguments, :infinity, monitor)
    if result != :stopped and Probe.judge(result) == :ok, do: :ok, else: result
  end

  defp answer({:file, path}, _monitor),
    do: if(File.exists?(path), do: :ok, else: {:error, :enoent})

  defp answer(connection, _monitor), do: Probe.connect(connection, @ask_ms)

  defp pause({%Callback{}, _arguments}), do: @function_interval_ms
  defp pause(_connection), do: @interval_ms

  defp log({%Callback{} = callback, _arguments}, {:error, failure}),
    do: Callback.log(callback, failure)

  defp log(_question, _answer), do: :ok
end
