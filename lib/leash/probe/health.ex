defmodule Leash.Probe.Health do
  # Asks a ready worker again and again whether it is well. If it was not well for too long, its
  # process is notified.
  #
  # A function is called in a process of its own, which is killed if it takes too long. A worker
  # that hangs is exactly what the check must find.
  @moduledoc false

  alias Leash.{Callback, Registry, Telemetry}
  alias Leash.Probe
  alias Leash.Worker.Protocol

  @positive [type: {:in, 1..0x7FFFFFFF}, type_spec: quote(do: pos_integer())]
  @milliseconds @positive ++ [type_doc: "milliseconds > 0"]

  @keys [
    check: [
      type: {:custom, Probe, :check, []},
      type_doc: Probe.expected(),
      type_spec:
        quote(
          do:
            unquote(Probe.typespec())
            | (() -> term())
            | {module(), atom(), [term()]}
        ),
      required: true,
      doc:
        "The question. A port or a Unix socket is well if it accepts a connection. A URL is " <>
          "well if GET is answered with 200 to 299. A function is well if it " <>
          "returns `true`, `:ok` or `{:ok, term}`."
    ],
    every: @milliseconds ++ [default: 5_000, doc: "The time before each question."],
    timeout: @milliseconds ++ [default: 1_000, doc: "The time for an answer."],
    failures:
      @positive ++
        [
          type_doc: "a number > 0",
          default: 3,
          doc:
            "After so many failures in a row the worker ends by its ladder, and this process " <>
              "exits with `{:unhealthy, reason}`."
        ]
  ]

  @doc "The option `:health`."
  @spec option() :: keyword()
  def option do
    [
      type: {:or, [nil, keyword_list: @keys]},
      doc:
        "Checks the worker once it is ready. A check fails if the answer is bad or does not " <>
          "come in time."
    ]
  end

  @doc """
  Begins to ask.

  A failure notifies the calling Worker with `Leash.Worker.Protocol.fail_unhealthy/3`.
  """
  @spec start(keyword(), pos_integer(), String.t()) :: :ok
  def start(options, number, label) do
    state =
      options
      |> Map.new()
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
        case Registry.fetch(state.number) do
          {:ok, %{tree: :alive}} -> asked(state, failed)
          # Skip the check while the tree is stopping.
          {:ok, %{tree: :ending}} -> wait(state, failed)
          # The Worker may go on with another tree, which has a check of its own.
          _gone -> :ok
        end
    end
  end

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
      do: Protocol.fail_unhealthy(state.worker, state.number, {:unhealthy, reason}),
      else: wait(state, failed + 1)
  end
end
