defmodule Leash.Registry.ExitHistory do
  # How the previous life of each worker with a registered name ended, for a look at its
  # successor.
  #
  # Only names identify two workers as the same one. The number of entries has a bound, because
  # names may be made from outside input. The table's owner is the application's supervisor.
  @moduledoc false

  alias Leash.Exit

  @most 1_000

  @typedoc "See `t:Leash.last_exit/0`."
  @type t :: Leash.last_exit()

  @doc "Creates the table. The caller owns it."
  @spec create() :: :ok
  def create do
    _ = :ets.new(__MODULE__, [:named_table, :public, read_concurrency: true])
    :ok
  end

  @doc "Records an end. Does nothing for a worker without a name."
  @spec put(GenServer.name() | nil, {:ok, Exit.t()} | term(), term()) :: :ok
  def put(nil, _result, _reason), do: :ok

  def put(name, result, reason) do
    exit = with({:ok, %Exit{} = exit} <- result, do: exit, else: (_unseen -> nil))
    last = %{exit: exit, reason: reason, at: DateTime.utc_now()}
    true = :ets.insert(__MODULE__, {name, System.monotonic_time(), last})
    forget_oldest()
  rescue
    # The table ended with the application.
    ArgumentError -> :ok
  end

  @doc """
  Returns the end of the life under this name before the one that began at this time (monotonic,
  native).

  A listed worker may have ended since then. Its own end is not the end of a previous life.
  """
  @spec fetch(GenServer.name() | nil, integer()) :: t() | nil
  def fetch(nil, _began), do: nil

  def fetch(name, began) do
    case :ets.lookup(__MODULE__, name) do
      [{_name, at, last}] when at <= began -> last
      _none_or_its_own -> nil
    end
  rescue
    ArgumentError -> nil
  end

  # Looks at all entries only when there is one too many.
  defp forget_oldest do
    if :ets.info(__MODULE__, :size) > @most do
      ages = :ets.select(__MODULE__, [{{:"$1", :"$2", :_}, [], [{{:"$2", :"$1"}}]}])
      {_at, oldest} = Enum.min_by(ages, &elem(&1, 0))
      true = :ets.delete(__MODULE__, oldest)
    end

    :ok
  end
end
