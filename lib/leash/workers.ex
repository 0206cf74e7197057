defmodule Leash.Workers do
  # The table of this run's workers: number, Worker process, shim.
  #
  # Its owner is the application's supervisor, so that the Reaper finds it as it was after a
  # restart. A Worker writes its own row while it lives; the Reaper removes it when the tree is
  # proven gone, and only then is the number free again.
  @moduledoc false

  alias Leash.{Ladder, Native}

  @typedoc """
  A `Leash.Worker`, one of a command's or a stream's, a port of `Leash.open_port/3`, or what `Leash.attach/2` or `Leash.adopt/2`
  took over.
  """
  @type kind :: :worker | :command | :port | :attachment | :adopted

  @typedoc """
  `nil` for a tree that ends with its process, `:own` for one that this run detached, a description of one that another
  run did.
  """
  @type outlives :: nil | :own | Leash.Detached.tree()

  @typedoc """
  A worker. `shim_fd` is a pidfd; `tree` is `:ending` once the shim was told to, and `:gone` once the
  Worker saw the proof.
  """
  @type row :: %{
          number: pos_integer(),
          pid: pid(),
          label: String.t(),
          name: GenServer.name() | nil,
          group: Leash.Group.t() | nil,
          kind: kind(),
          began: integer(),
          stop: Ladder.t(),
          shim: pos_integer() | nil,
          shim_fd: Native.fd() | nil,
          os_pid: pos_integer() | nil,
          tree: :alive | :ending | :gone,
          outlives: outlives(),
          mark?: boolean(),
          guard: Leash.Guard.spec() | nil,
          on_crash: :ladder | :kill
        }

  @typedoc "What whoever registers a worker says of it."
  @type description :: %{
          required(:kind) => kind(),
          required(:label) => String.t(),
          required(:stop) => Ladder.t(),
          required(:group) => Leash.Group.t() | nil,
          optional(:outlives) => outlives(),
          optional(:mark?) => boolean(),
          optional(:name) => GenServer.name() | nil,
          optional(:on_crash) => :ladder | :kill
        }

  @doc "The row of a worker that is about to start."
  @spec row(pos_integer(), pid(), description()) :: row()
  def row(number, pid, description) do
    %{name: nil, on_crash: :kill}
    |> Map.merge(Map.take(description, [:kind, :label, :name, :stop, :group, :on_crash]))
    |> Map.merge(%{
      number: number,
      pid: pid,
      began: System.monotonic_time(),
      shim: nil,
      shim_fd: nil,
      os_pid: nil,
      tree: :alive,
      outlives: description[:outlives],
      mark?: Map.get(description, :mark?, true),
      guard: nil
    })
  end

  @doc "Creates the table; the caller owns it."
  @spec create() :: :ok
  def create do
    _ = :ets.new(__MODULE__, [:named_table, :public, read_concurrency: true])
    :ok
  end

  @doc "Whether there is a table: not while the application is stopped."
  @spec exist?() :: boolean()
  def exist?, do: :ets.whereis(__MODULE__) != :undefined

  @spec put(row()) :: :ok
  def put(row) do
    true = :ets.insert(__MODULE__, {row.number, row.pid, row, 0})
    :ok
  end

  @doc "Changes a row, unless it or the table went away."
  @spec change(pos_integer(), keyword()) :: :ok
  def change(number, changes) do
    with {:ok, row} <- fetch(number),
         do: :ets.update_element(__MODULE__, number, {3, Map.merge(row, Map.new(changes))})

    :ok
  rescue
    # The table went with the application between the question and the write.
    ArgumentError -> :ok
  end

  @doc """
  Whether the caller is the first who is to tell a worker's shim to begin its ladder.

  A second telling means SIGKILL, and the Worker is not the only one who may tell: `Leash.stop_all/2` does where
  the Worker does not answer.
  """
  @spec first_to_tell?(pos_integer()) :: boolean()
  def first_to_tell?(number) do
    :ets.update_counter(__MODULE__, number, {4, 1}) == 1
  rescue
    # Neither row nor table is there: nobody else can tell.
    ArgumentError -> true
  end

  @spec taken?(pos_integer()) :: boolean()
  def taken?(number), do: :ets.member(__MODULE__, number)

  @doc "Whether a number is that of a tree which this run detached."
  @spec detached?(pos_integer()) :: boolean()
  def detached?(number), do: match?({:ok, %{outlives: :own}}, fetch(number))

  @spec fetch(pos_integer()) :: {:ok, row()} | :error
  def fetch(number) do
    case :ets.lookup(__MODULE__, number) do
      [{_number, _pid, row, _told}] -> {:ok, row}
      [] -> :error
    end
  rescue
    # There is no table while the application is stopped.
    ArgumentError -> :error
  end

  @spec delete(pos_integer()) :: :ok
  def delete(number) do
    true = :ets.delete(__MODULE__, number)
    :ok
  end

  @doc "The rows of a group whose trees are not proven gone, by number."
  @spec living(Leash.Group.t() | :all) :: [row()]
  def living(group),
    do: for(row <- all(), row.tree != :gone, Leash.Group.includes?(group, row.group), do: row)

  @doc "The rows of a name. Only they are copied: this is asked at every start of a named worker."
  @spec named(GenServer.name()) :: [row()]
  def named(name) do
    has_it = {:"=:=", {:map_get, :name, :"$1"}, {:const, name}}
    :ets.select(__MODULE__, [{{:_, :_, :"$1", :_}, [has_it], [:"$1"]}])
  rescue
    # There is no table while the application is stopped.
    ArgumentError -> []
  end

  @doc "All rows, by number."
  @spec all() :: [row()]
  def all do
    if exist?(),
      do: __MODULE__ |> :ets.tab2list() |> Enum.map(&elem(&1, 2)) |> Enum.sort_by(& &1.number),
      else: []
  rescue
    # The table went with the application between the question and the look.
    ArgumentError -> []
  end
end
