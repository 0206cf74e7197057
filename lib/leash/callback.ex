defmodule Leash.Callback do
  # Calls functions that a user gave. If one raises, throws, exits or hangs, then a line in the
  # log names it. The calling process never fails.
  @moduledoc false

  require Logger

  alias Leash.Text

  @enforce_keys [:option, :label, :function]
  defstruct [:option, :label, :function, logged_at: nil, unlogged: 0]

  @typedoc "A function, or module, name and arguments as a configuration can hold them."
  @type callable :: fun() | {module(), atom(), [term()]}

  @typedoc "`option` is the function's option, `label` the worker, both as the log names them."
  @type t :: %__MODULE__{
          option: atom(),
          label: String.t(),
          function: callable(),
          logged_at: integer() | nil,
          unlogged: non_neg_integer()
        }

  @typedoc """
  The reason why there is no value.

  The milliseconds are those after which the call was given up. `:infinity` means that it was
  given up when its worker ended. `:busy` means that the call goes on.
  """
  @type failure ::
          {:error | :throw | :exit, term(), Exception.stacktrace()}
          | {:timeout, timeout()}
          | :busy

  # A function that fails at each call must not fill the log.
  @log_every_ms 10_000

  @spec new(atom(), String.t(), callable()) :: t()
  def new(option, label, function),
    do: %__MODULE__{option: option, label: label, function: function}

  @doc "Calls the function in this process."
  @spec run(t(), [term()]) :: {:ok, term()} | {:error, failure()}
  def run(callback, arguments) do
    {:ok, apply_to(callback.function, arguments)}
  catch
    kind, reason ->
      {:error, {kind, Exception.normalize(kind, reason, __STACKTRACE__), __STACKTRACE__}}
  end

  defp apply_to({module, function, more}, arguments),
    do: apply(module, function, arguments ++ more)

  defp apply_to(function, arguments), do: apply(function, arguments)

  @doc """
  Calls the function in a process of its own, which is killed after so many milliseconds.

  The process is linked, so that it ends with the calling one. The caller must trap exits. If the
  monitor `until` fires first, the process is killed and the result is `:stopped`.
  """
  @spec run_within(t(), [term()], timeout(), reference() | nil) ::
          {:ok, term()} | {:error, failure()} | :stopped
  def run_within(callback, arguments, ms, until \\ nil) do
    # An alias, because an answer that comes too late must not stay in the caller's mailbox.
    answer = :erlang.alias([:explicit_unalias])

    {pid, monitor} =
      :erlang.spawn_opt(
        inherit(fn -> send(answer, {answer, run(callback, arguments)}) end),
        [:link, :monitor]
      )

    result =
      receive do
        {^answer, result} -> result
        {:DOWN, ^monitor, :process, ^pid, reason} -> {:error, {:exit, reason, []}}
        {:DOWN, ^until, :process, _pid, _reason} when until != nil -> kill(pid, :stopped)
      after
        ms -> kill(pid, {:error, {:timeout, ms}})
      end

    :erlang.unalias(answer)
    Process.unlink(pid)
    Process.demonitor(monitor, [:flush])
    flush(pid, answer)
    result
  end

  defp kill(pid, result) do
    Process.exit(pid, :kill)
    result
  end

  defp flush(pid, answer) do
    receive do
      {:EXIT, ^pid, _reason} -> flush(pid, answer)
      {^answer, _result} -> flush(pid, answer)
    after
      0 -> :ok
    end
  end

  @doc """
  Logs a failure: the first at once, then one in ten seconds with the number of those in between.
  """
  @spec log(t(), failure()) :: t()
  def log(%{logged_at: at} = callback, failure) do
    now = System.monotonic_time(:millisecond)

    if at == nil or now - at >= @log_every_ms do
      Logger.error(
        fn -> [describe(callback), " ", text(failure), more(callback.unlogged)] end,
        metadata(failure)
      )

      %{callback | logged_at: now, unlogged: 0}
    else
      %{callback | unlogged: callback.unlogged + 1}
    end
  end

  @doc "Logs how many failures were not logged. Logs nothing if there are none."
  @spec log_rest(t()) :: t()
  def log_rest(%{unlogged: 0} = callback), do: callback

  def log_rest(callback) do
    Logger.error(fn -> [describe(callback), " failed", more(callback.unlogged)] end)
    %{callback | unlogged: 0}
  end

  @doc "The option, the worker and the function, such as `on_output of sh, MyApp.Sink.take/2,`."
  @spec describe(t()) :: String.t()
  def describe(callback),
    do: "#{callback.option} of #{Text.printable(callback.label)}, #{name(callback.function)},"

  defp text(:busy), do: "has not taken all output yet, though its program is gone"
  defp text({:timeout, :infinity}), do: "had not returned when the worker ended"
  defp text({:timeout, ms}), do: "did not return within #{ms} ms"

  # The exception's text may contain what a program wrote.
  defp text({kind, reason, stacktrace}) do
    verb = Map.fetch!(%{error: "raised: ", throw: "threw: ", exit: "exited: "}, kind)
    [verb, Text.printable_lines(Exception.format(kind, reason, stacktrace))]
  end

  # The format that Logger uses for crashes.
  defp metadata({:throw, value, stack}), do: [crash_reason: {{:nocatch, value}, stack}]
  defp metadata({_kind, reason, stacktrace}), do: [crash_reason: {reason, stacktrace}]
  defp metadata(_hangs), do: []

  defp more(0), do: []
  defp more(1), do: " (and once more since the last line)"
  defp more(times), do: " (and #{times} times more since the last line)"

  defp name({module, function, arguments}),
    do: Exception.format_mfa(module, function, length(arguments))

  defp name(function) do
    [module, name, arity] =
      for key <- [:module, :name, :arity], do: function |> Function.info(key) |> elem(1)

    Exception.format_mfa(module, name, arity)
  end

  @doc "The callers of a process that this one spawns, as `Task` notes them: this one first."
  @spec callers() :: [pid()]
  def callers, do: [self() | Process.get(:"$callers", [])]

  @doc "The callers of a process that this one spawns, as `Task` notes them, this process first."
  @spec put_callers([pid()]) :: :ok
  def put_callers(callers) do
    _ = Process.put(:"$callers", callers)
    :ok
  end

  @doc "Returns a function for `spawn` and the like that notes these callers first."
  @spec inherit((() -> result), [pid()]) :: (() -> result) when result: var
  def inherit(function, callers \\ callers()) do
    fn ->
      :ok = put_callers(callers)
      function.()
    end
  end
end
