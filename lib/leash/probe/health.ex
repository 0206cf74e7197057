defmodule Leash.Probe.Health do
  # Asks a ready worker again and again whether it is well. If it was not well for too long, its
  # process is notified.
  #
  # A function is called in a process of its own, which is killed if it takes too long. A worker
  # that hangs is exactly what the check must find.
  @moduledoc false

  alias Leash.{Callback, Registry, Schema, Telemetry}
  alias Leash.Probe
  alias Leash.Probe.HTTP
  alias Leash.Worker.Protocol

  @longest_ms 0x7FFFFFFF
  @defaults %{every: 5_000, timeout: 1_000, failures: 3}

  @doc false
  @spec expected() :: String.t()
  def expected do
    "a keyword list with check: {:tcp, port}, {:http, target} (#{HTTP.expected()}), a function without arguments or {module, function, args}, " <>
      "and every: milliseconds, timeout: milliseconds, failures: number, each positive and " <>
      "at most once"
  end

  @doc "Returns the quoted type."
  @spec typespec() :: Macro.t()
  def typespec do
    quote do
      [
        {:check,
         {:tcp, :inet.port_number()}
         | {:http, unquote(HTTP.typespec())}
         | (() -> term())
         | {module(), atom(), [term()]}}
        | {:every, pos_integer()}
        | {:timeout, pos_integer()}
        | {:failures, pos_integer()}
      ]
      | nil
    end
  end

  @doc false
  @spec valid?(term()) :: boolean()
  def valid?(nil), do: true

  def valid?(options),
    do: Schema.each_once?(options, &valid_option?/1) and Keyword.has_key?(options, :check)

  defp valid_option?({:check, check}), do: Probe.valid?(check)

  defp valid_option?({key, number}) when key in [:every, :timeout, :failures],
    do: is_integer(number) and number in 1..@longest_ms

  defp valid_option?(_other), do: false

  @doc """
  Begins to ask.

  A failure notifies the calling Worker with `Leash.Worker.Protocol.fail_unhealthy/2`.
  """
  @spec start(keyword(), pos_integer(), String.t()) :: :ok
  def start(options, number, label) do
    state =
      @defaults
      |> Map.merge(Map.new(options))
      |> Map.merge(%{worker: self(), number: number})
      |> Map.update!(:check, &named(&1, label))

    _ = spawn_link(Callback.inherit(fn -> init(state) end))
    :ok
  end

  defp named(check, label) do
    if Probe.function?(check), do: Callback.new(:health, label, check), else: check
  end

  defp init(state) do
    # So that the end of the Worker is a message, also in the middle of a question.
    Process.flag(:trap_exit, true)
    wait(Map.put(state, :monitor, Process.monitor(state.worker)), 0)
  end

  defp wait(%{monitor: monitor} = state, failed) do
    receive do
      {:DOWN, ^monitor, :process, _pid, _reason} -> :ok
    after
      state.every ->
        if wanted?(state), do: asked(state, failed), else: wait(state, failed)
    end
  end

  # Skip the check while the tree is stopping.
  defp wanted?(state), do: match?({:ok, %{tree: :alive}}, Registry.fetch(state.number))

  defp asked(%{check: %Callback{} = callback} = state, failed) do
    case Callback.run_within(callback, [], state.timeout, state.monitor) do
      :stopped -> :ok
      result -> result |> Probe.judge() |> answered(log(state, result), failed)
    end
  end

  # The question is bounded, so it need not be killed if the worker ends meanwhile.
  defp asked(%{monitor: monitor} = state, failed) do
    answer = Probe.connect(state.check, state.timeout)

    receive do
      {:DOWN, ^monitor, :process, _pid, _reason} -> :ok
    after
      0 -> answered(answer, state, failed)
    end
  end

  defp log(state, {:error, failure}), do: %{state | check: Callback.log(state.check, failure)}
  defp log(state, {:ok, _answer}), do: state

  defp answered(:ok, state, _failed), do: wait(state, 0)

  defp answered({:error, reason}, state, failed) do
    Telemetry.health(state.number, failed + 1, reason)

    if failed + 1 >= state.failures,
      do: Protocol.fail_unhealthy(state.worker, {:unhealthy, reason}),
      else: wait(state, failed + 1)
  end
end
