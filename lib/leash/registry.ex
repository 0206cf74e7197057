defmodule Leash.Registry do
  # The table of this run's workers: number, Worker process, shim.
  #
  # Its owner is the application's supervisor, so that the Reaper finds it as it was after a
  # restart. A Worker writes its own row while it lives; the Reaper removes it when the tree is
  # proven gone, and only then is the number free again.
  @moduledoc false

  alias Leash.{Ladder, Native}

  @claims Module.concat(__MODULE__, Claims)
  @closed Module.concat(__MODULE__, Closed)
  @last Module.concat(__MODULE__, Last)

  # What the mark has room for.
  @numbers 32_766

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
          on_crash: :ladder | :kill,
          owner: pid() | nil,
          claims: [claim()],
          cancel: reference() | nil
        }

  @typedoc """
  What only one tree at a time can have: a start waits for one of its own that is ending and has
  it.
  """
  @type claim ::
          {:name, GenServer.name()} | {:port, :inet.port_number()} | {:file, Path.t(), [binary()]}

  @typedoc "What whoever registers a worker says of it."
  @type description :: %{
          required(:kind) => kind(),
          required(:label) => String.t(),
          required(:stop) => Ladder.t(),
          required(:group) => Leash.Group.t() | nil,
          optional(:outlives) => outlives(),
          optional(:mark?) => boolean(),
          optional(:name) => GenServer.name() | nil,
          # the process that takes that of the row along when it ends
          optional(:owner) => pid() | nil,
          optional(:on_crash) => :ladder | :kill,
          optional(:claims) => [claim()],
          # an alias: `{cancel, :cancel}` makes the process give up a start
          optional(:cancel) => reference() | nil
        }

  @doc "The row of a worker that is about to start."
  @spec row(pos_integer(), pid(), description()) :: row()
  def row(number, pid, description) do
    %{name: nil, owner: nil, on_crash: :kill, claims: [], cancel: nil}
    |> Map.merge(Map.take(description, [:kind, :label, :name, :stop, :group]))
    |> Map.merge(Map.take(description, [:owner, :on_crash, :claims, :cancel]))
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

  # What changes in the life of a tree, each at a position of its own: a change is one write, and two
  # processes that change different keys do not undo each other's.
  @positions %{shim: 5, shim_fd: 6, os_pid: 7, tree: 8, guard: 9}

  defp entry(row) do
    {row.number, row.pid, Map.drop(row, Map.keys(@positions)), 0, row.shim, row.shim_fd,
     row.os_pid, row.tree, row.guard}
  end

  defp row({_number, _pid, fixed, _told, shim, shim_fd, os_pid, tree, guard}),
    do:
      Map.merge(fixed, %{shim: shim, shim_fd: shim_fd, os_pid: os_pid, tree: tree, guard: guard})

  @doc "Creates the tables; the caller owns them."
  @spec create() :: :ok
  def create do
    _ = :ets.new(__MODULE__, [:named_table, :public, read_concurrency: true])
    # claim => number, so that a start looks at those alone that have what it wants
    _ = :ets.new(@claims, [:named_table, :public, :bag, read_concurrency: true])
    # what closes a group => the group
    _ = :ets.new(@closed, [:named_table, :public, read_concurrency: true])
    # the last number
    _ = :ets.new(@last, [:named_table, :public, write_concurrency: true])
    true = :ets.insert(@last, {:last, 0})
    :ok
  end

  @doc "Whether there is a table: not while the application is stopped."
  @spec exist?() :: boolean()
  def exist?, do: :ets.whereis(__MODULE__) != :undefined

  @doc """
  Returns the process that owns the table, the supervisor of the application: it outlives every
  other process of ours, and when it is gone, nothing answers for a tree any more.
  """
  @spec owner() :: pid() | nil
  def owner, do: with(:undefined <- :ets.info(__MODULE__, :owner), do: nil)

  @doc """
  Makes that process the owner of a descriptor, so that the Reaper finds it open when the caller is
  killed.
  """
  @spec keep(Native.fd()) :: :ok
  def keep(fd) do
    _ = Native.fd_give(fd, owner() || self())
    :ok
  end

  @doc "Monitors it. While the application is stopped the message comes at once."
  @spec monitor_owner() :: reference()
  def monitor_owner, do: Process.monitor(owner() || __MODULE__)

  @doc """
  Gives a process a free number, unless its group is closed.

  The row is there before the group is looked at, and what closes a group looks at the rows after
  that. So one of the two sees the other.
  """
  @spec register(pid(), description()) ::
          {:ok, pos_integer()}
          | {:error, :not_running | :too_many_workers | {:stopping, pos_integer()}}
  def register(pid, description) do
    with {:ok, number} <- insert_new(pid, description, @numbers) do
      if closed?(description.group) do
        change(number, tree: :gone)
        {:error, {:stopping, number}}
      else
        {:ok, number}
      end
    end
  rescue
    # There is no table while the application is stopped.
    ArgumentError -> {:error, :not_running}
  end

  defp insert_new(_pid, _description, 0), do: {:error, :too_many_workers}

  # Numbers rise, so that one is not used again while its last tree may still be thought of.
  defp insert_new(pid, description, left) do
    number = :ets.update_counter(@last, :last, {2, 1, @numbers, 1})
    row = row(number, pid, description)

    if :ets.insert_new(__MODULE__, entry(row)) do
      claim(row)
      {:ok, number}
    else
      insert_new(pid, description, left - 1)
    end
  end

  defp closed?(group) do
    :ets.info(@closed, :size) > 0 and
      Enum.any?(:ets.tab2list(@closed), fn {_who, closed} ->
        Leash.Group.includes?(closed, group)
      end)
  end

  @doc "Closes a group for starts, until `open/1`."
  @spec close(term(), Leash.Group.t() | :all | pos_integer()) :: :ok
  def close(who, group) do
    true = :ets.insert(@closed, {who, group})
    :ok
  end

  @doc "Opens what was closed under that name."
  @spec open(term()) :: :ok
  def open(who) do
    true = :ets.delete(@closed, who)
    :ok
  end

  @doc "Opens every group."
  @spec open_all() :: :ok
  def open_all do
    true = :ets.delete_all_objects(@closed)
    :ok
  end

  @doc "Puts a row as it is."
  @spec put(row()) :: :ok
  def put(row) do
    true = :ets.insert(__MODULE__, entry(row))
    claim(row)
  end

  defp claim(%{claims: []}), do: :ok

  defp claim(row) do
    true = :ets.insert(@claims, for(claim <- row.claims, do: {claim, row.number}))
    :ok
  end

  @doc "Changes a row, unless it or the table went away."
  @spec change(pos_integer(), [{:shim | :shim_fd | :os_pid | :tree | :guard, term()}]) :: :ok
  def change(number, changes) do
    changes = for {key, value} <- changes, do: {Map.fetch!(@positions, key), value}
    _ = :ets.update_element(__MODULE__, number, changes)
    :ok
  rescue
    # The table went with the application.
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
      [entry] -> {:ok, row(entry)}
      [] -> :error
    end
  rescue
    # There is no table while the application is stopped.
    ArgumentError -> :error
  end

  @spec delete(pos_integer()) :: :ok
  def delete(number) do
    with {:ok, %{claims: [_ | _] = claims}} <- fetch(number),
         do: Enum.each(claims, &:ets.delete_object(@claims, {&1, number}))

    true = :ets.delete(__MODULE__, number)
    :ok
  end

  @doc "The rows of a group, or of one number, whose trees are not proven gone, by number."
  @spec living(Leash.Group.t() | :all | pos_integer()) :: [row()]
  def living(number) when is_integer(number) do
    case fetch(number) do
      {:ok, %{tree: tree} = row} when tree != :gone -> [row]
      _gone -> []
    end
  end

  def living(group),
    do: for(row <- all(), row.tree != :gone, Leash.Group.includes?(group, row.group), do: row)

  @doc "The rows that have one of these."
  @spec claimants([claim()]) :: [row()]
  def claimants(claims) do
    for claim <- claims, {_claim, number} <- :ets.lookup(@claims, claim), uniq: true, do: number
  rescue
    # There is no table while the application is stopped.
    ArgumentError -> []
  else
    numbers -> for number <- numbers, {:ok, row} <- [fetch(number)], do: row
  end

  @doc "The row of a process."
  @spec of_process(pid()) :: {:ok, row()} | :error
  def of_process(pid) do
    case :ets.match_object(__MODULE__, {:_, pid, :_, :_, :_, :_, :_, :_, :_}) do
      [entry | _] -> {:ok, row(entry)}
      [] -> :error
    end
  rescue
    ArgumentError -> :error
  end

  @doc """
  Whether a tree is on its way out: told to end, or left by its process or by the owner
  that takes that process along.
  """
  @spec ending?(row()) :: boolean()
  def ending?(%{tree: :gone}), do: false
  def ending?(%{tree: :ending}), do: true
  def ending?(%{outlives: nil} = row), do: not Process.alive?(row.pid) or left_by_owner?(row)
  def ending?(_detached), do: false

  # An owner's end reaches its worker as a message, and its supervisor at the same time.
  defp left_by_owner?(%{owner: nil}), do: false

  defp left_by_owner?(%{owner: owner, pid: pid, kind: :worker}),
    do: not Process.alive?(owner) and linked?(pid, owner)

  defp left_by_owner?(%{owner: owner}), do: not Process.alive?(owner)

  defp linked?(pid, owner) do
    case Process.info(pid, [:links, :messages]) do
      [links: links, messages: messages] ->
        owner in links or Enum.any?(messages, &match?({:EXIT, ^owner, _reason}, &1))

      nil ->
        true
    end
  end

  @doc "All rows, by number."
  @spec all() :: [row()]
  def all do
    if exist?(),
      do: __MODULE__ |> :ets.tab2list() |> Enum.map(&row/1) |> Enum.sort_by(& &1.number),
      else: []
  rescue
    # The table went with the application between the question and the look.
    ArgumentError -> []
  end
end
