defmodule Leash.Guard do
  # Looks at the trees of workers with `guard:` and acts if one exceeds its limits.
  #
  # One process guards all of them, because one pass over `/proc` covers all. It sleeps while no
  # worker is guarded. Its data are in the table of workers, so that it finds everything again
  # after a crash, except how long each tree was idle.
  @moduledoc false

  use GenServer
  use Leash.ShortStatus, [:timer]

  require Logger

  alias Leash.Guard.{Options, Watch}
  alias Leash.{Callback, Registry, Telemetry, Usage}
  alias Leash.Worker.Protocol

  @type limit :: :processes | :rss | :lifetime | :idle

  @typedoc "The exceeded limit, and the value seen: processes, bytes or milliseconds."
  @type breach :: %{limit: limit(), max: pos_integer(), value: non_neg_integer()}

  @typedoc """
  The guard of a worker.

  `traffic` counts the bytes of its output. `callers` are those of a function as `action`.
  """
  @type spec :: %{
          limits: %{optional(limit()) => pos_integer()},
          every: pos_integer(),
          action: :stop | :log | (map() -> term()),
          traffic: :counters.counters_ref() | nil,
          callers: [pid()]
        }

  @spec start_link(term()) :: GenServer.on_start()
  def start_link(_options), do: GenServer.start_link(__MODULE__, nil, name: __MODULE__)

  @doc "Returns a counter of a worker's output if its guard needs one."
  @spec traffic(keyword()) :: :counters.counters_ref() | nil
  def traffic(options) do
    if Keyword.has_key?(options, :idle), do: :counters.new(1, [])
  end

  @doc "Counts output, including output that waits for a slow handler."
  @spec saw_output(:counters.counters_ref() | nil, pos_integer()) :: :ok
  def saw_output(nil, _bytes), do: :ok
  def saw_output(traffic, bytes), do: :counters.add(traffic, 1, bytes)

  @doc """
  Guards the calling Worker's tree until it ends.

  The guard notifies the Worker with `Leash.Worker.Protocol.fail_unhealthy/3`.
  """
  @spec watch(pos_integer(), keyword(), :counters.counters_ref() | nil) :: :ok
  def watch(number, options, traffic) do
    Registry.change(number, guard: Options.spec(options, traffic))
    GenServer.cast(__MODULE__, {:watch, number})
  end

  @impl true
  def init(nil) do
    # After a crash of this process, the table names the guarded workers.
    watches =
      for %{guard: %{}} = row <- Registry.all(), into: %{}, do: {row.number, watch_of(row)}

    {:ok, arm(%{watches: watches, timer: nil})}
  end

  defp watch_of(row) do
    began = System.convert_time_unit(row.began, :native, :millisecond)
    Watch.new(row.guard, began, now())
  end

  @impl true
  def handle_cast({:watch, number}, state) do
    case Registry.fetch(number) do
      {:ok, %{guard: %{}} = row} -> {:noreply, arm(put_in(state.watches[number], watch_of(row)))}
      _gone_again -> {:noreply, state}
    end
  end

  @impl true
  def handle_info({:timeout, timer, :look}, %{timer: {timer, _at}} = state),
    do: {:noreply, arm(%{look(state) | timer: nil})}

  def handle_info(_other, state), do: {:noreply, state}

  # A timer that fires without need costs less than a search for it at each end of a worker.
  defp arm(%{watches: watches} = state) when map_size(watches) == 0, do: state

  defp arm(state) do
    at = state.watches |> Enum.map(fn {_number, watch} -> watch.due end) |> Enum.min()

    case state.timer do
      {_timer, earlier} when earlier <= at ->
        state

      other ->
        with {timer, _later} <- other, do: :erlang.cancel_timer(timer)
        %{state | timer: {:erlang.start_timer(at, self(), :look, abs: true), at}}
    end
  end

  defp look(state) do
    began = now()
    {due, others} = Enum.split_with(state.watches, fn {_number, watch} -> watch.due <= began end)

    # A tree that ends or has ended is no longer guarded. Its number may belong to another by now.
    living =
      for {number, watch} <- due,
          {:ok, %{tree: :alive, guard: guard} = row} when guard == watch.spec <- [
            Registry.fetch(number)
          ],
          do: {row, watch}

    sums = sums(living)
    now = now()
    watches = for {row, watch} <- living, watch = check(row, watch, sums, now), do: watch
    %{state | watches: Map.new(watches ++ others)}
  end

  defp sums(living) do
    if Enum.any?(living, fn {_row, watch} -> Watch.needs_look?(watch) end),
      do: living |> Enum.map(&elem(&1, 0)) |> Usage.sums(),
      else: :error
  end

  defp check(row, watch, sums, now) do
    sums = with {:ok, sums} <- sums, do: Map.get(sums, row.number, Usage.none()), else: (_ -> nil)

    {breaches, watch} = Watch.check(watch, sums, now)

    if act(breaches, row, watch.spec) == :stopped,
      do: nil,
      else: {row.number, Watch.again(watch, now)}
  end

  defp act([], _row, _spec), do: :ok

  # One reason is enough.
  defp act([breach | _more], row, %{action: :stop}) do
    Telemetry.guard(row.number, breach, :stop)
    Protocol.fail_unhealthy(row.pid, row.number, {:guard, breach})
    :stopped
  end

  defp act(breaches, row, %{action: action, callers: callers}) do
    for breach <- breaches do
      Telemetry.guard(row.number, breach, if(action == :log, do: :log, else: :function))
      _ = tell(action, row, breach, callers)
    end

    :ok
  end

  defp tell(:log, row, breach, _callers) do
    Logger.warning(
      "Worker #{row.number} (#{row.label}) exceeds its limit: #{breach.limit} " <>
        "#{breach.value}, at most #{breach.max}"
    )
  end

  # A slow function must not hold up this process.
  defp tell(function, row, breach, callers) do
    worker =
      row |> Map.take([:pid, :name, :label, :group, :os_pid]) |> Map.put(:worker, row.number)

    callback = Callback.new(:guard, row.label, function)

    spawn(
      Callback.inherit(
        fn ->
          Process.flag(:trap_exit, true)

          with {:error, failure} <-
                 Callback.run_within(callback, [Map.merge(breach, worker)], :infinity),
               do: Callback.log(callback, failure)
        end,
        callers
      )
    )
  end

  defp now, do: System.monotonic_time(:millisecond)
end
