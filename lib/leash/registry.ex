defmodule Leash.Registry do
  # The table of this run's workers: number, Worker process, shim.
  #
  # Its owner is the application's supervisor, so that the table survives a restart of the Reaper.
  # A living Worker writes its own row. The Reaper removes the row when the tree is proven gone,
  # and only then is the number free again.
  @moduledoc false

  alias Leash.{Ladder, Native}

  @claims Module.concat(__MODULE__, Claims)
  @closed Module.concat(__MODULE__, Closed)
  @last Module.concat(__MODULE__, Last)

  # The mark has room for so many numbers.
  @numbers 32_766

  @typedoc """
  A `Leash.Worker`, a worker of a command or a stream, a port of `Leash.open_port/3`, or a tree
  that `Leash.attach/2` or `Leash.Worker.adopt/2` took over.
  """
  @type kind :: :worker | :command | :port | :attachment | :adopted

  @typedoc """
  The kind of life beyond the process.

  `nil` is for a tree that ends with its process, and `:own` for a tree that this run detached. A
  tree that another run detached has its description here.
  """
  @type outlives :: nil | :own | Leash.Detached.tree()

  @typedoc """
  A worker.

  `shim_fd` is a pidfd. `tree` is `:ending` after the shim was told to end it, and `:gone` after
  the Worker saw the proof.
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
          cgroup: nil | :ends | :stays,
          guard: Leash.Guard.spec() | nil,
          on_crash: :ladder | :kill,
          owner: pid() | nil,
          claims: [claim()],
          cancel: reference() | nil,
          restart: Leash.Worker.RestartDelay.t() | nil
        }

  @typedoc """
  A resource that only one tree at a time can have. A start waits while an ending tree of the same
  run has its claim.
  """
  @type claim ::
          {:name, GenServer.name()}
          | {:port, :inet.port_number() | Path.t()}
          | {:file, Path.t(), [binary()]}

  @typedoc "The description of a worker that is being registered."
  @type description :: %{
          required(:kind) => kind(),
          required(:label) => String.t(),
          required(:stop) => Ladder.t(),
          required(:group) => Leash.Group.t() | nil,
          optional(:outlives) => outlives(),
          optional(:mark?) => boolean(),
          # The tree's control group ends with it, or stays with what it keeps.
          optional(:cgroup) => nil | :ends | :stays,
          optional(:name) => GenServer.name() | nil,
          # The process whose end also ends the process of the row.
          optional(:owner) => pid() | nil,
          optional(:on_crash) => :ladder | :kill,
          optional(:claims) => [claim()],
          # An alias: `{cancel, :cancel}` makes the process give up a start.
          optional(:cancel) => reference() | nil,
          # The wait before this start, if `:restart_delay` made one.
          optional(:restart) => Leash.Worker.RestartDelay.t() | nil
        }

  @doc "Returns the row of a worker that is about to start."
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
      cgroup: description[:cgroup],
      restart: description[:restart],
      guard: nil
    })
  end

  # The keys that change in the life of a tree, each at a position of its own. So a change is one
  # write, and two processes that change different keys do not undo each other's changes.
  @positions %{shim: 5, shim_fd: 6, os_pid: 7, tree: 8, guard: 9}

  defp entry(row) do
    {row.number, row.pid, Map.drop(row, Map.keys(@positions)), 0, row.shim, row.shim_fd,
     row.os_pid, row.tree, row.guard}
  end

  defp row({_number, _pid, fixed, _told, shim, shim_fd, os_pid, tree, guard}),
    do:
      Map.merge(fixed, %{shim: shim, shim_fd: shim_fd, os_pid: os_pid, tree: tree, guard: guard})

  @doc "Creates the tables. The caller owns them."
  @spec create() :: :ok
  def create do
    _ = :ets.new(__MODULE__, [:named_table, :public, read_concurrency: true])
    # Claim => number, so that a start looks only at rows with its claims.
    _ = :ets.new(@claims, [:named_table, :public, :bag, read_concurrency: true])
    # The closer of a group => the group.
    _ = :ets.new(@closed, [:named_table, :public, read_concurrency: true])
    # The last number.
    _ = :ets.new(@last, [:named_table, :public, write_concurrency: true])
    true = :ets.insert(@last, {:last, 0})
    :ok
  end

  @doc "Returns whether there is a table. There is none while the application is stopped."
  @spec exist?() :: boolean()
  def exist?, do: :ets.whereis(__MODULE__) != :undefined

  @doc """
  Returns the process that owns the table, the supervisor of the application.

  It outlives every other process of Leash. After its end, no process ends a tree any more.
  """
  @spec owner() :: pid() | nil
  def owner, do: with(:undefined <- :ets.info(__MODULE__, :owner), do: nil)

  @doc """
  Makes that process the owner of a descriptor, so that it stays open for the Reaper if the caller
  is killed.
  """
  @spec keep(Native.fd()) :: :ok
  def keep(fd) do
    _ = Native.fd_give(fd, owner() || self())
    :ok
  end

  @doc "Monitors that process. While the application is stopped, the message comes at once."
  @spec monitor_owner() :: reference()
  def monitor_owner, do: Process.monitor(owner() || __MODULE__)

  @doc """
  Gives a process a free number, unless its group is closed.

  The function inserts the row before it looks at the group. A process that closes a group looks
  at the rows after that. So one of the two sees the other.
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

  # Numbers rise, so that a number is not used again while its last tree may still be referred to.
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
      Enum.any?(:ets.tab2list(@closed), fn {_name, closed} ->
        Leash.Group.includes?(closed, group)
      end)
  end

  @doc "Closes a group for starts, until `open/1`."
  @spec close(term(), Leash.Group.t() | :all | pos_integer()) :: :ok
  def close(name, group) do
    true = :ets.insert(@closed, {name, group})
    :ok
  end

  @doc "Opens what was closed under that name."
  @spec open(term()) :: :ok
  def open(name) do
    true = :ets.delete(@closed, name)
    :ok
  end

  @doc "Opens every group."
  @spec open_all() :: :ok
  def open_all do
    true = :ets.delete_all_objects(@closed)
    :ok
  end

  @doc "Writes a row unchanged."
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

  @doc "Changes a row. Does nothing if the row or the table is gone."
  @spec change(pos_integer(), [{:shim | :shim_fd | :os_pid | :tree | :guard, term()}]) :: :ok
  def change(number, changes) do
    changes = for {key, value} <- changes, do: {Map.fetch!(@positions, key), value}
    _ = :ets.update_element(__MODULE__, number, changes)
    :ok
  rescue
    # The table ended with the application.
    ArgumentError -> :ok
  end

  @doc """
  Returns whether the caller is the first that tells a worker's shim to begin its ladder.

  A second telling means SIGKILL. Not only the Worker tells: `Leash.stop_all/2` does if the Worker
  does not answer.
  """
  @spec first_to_tell?(pos_integer()) :: boolean()
  def first_to_tell?(number) do
    :ets.update_counter(__MODULE__, number, {4, 1}) == 1
  rescue
    # Neither row nor table exists, so no other process can tell.
    ArgumentError -> true
  end

  @spec taken?(pos_integer()) :: boolean()
  def taken?(number), do: :ets.member(__MODULE__, number)

  @doc "Returns whether a number is that of a tree which this run detached."
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

  @doc """
  Returns rows whose trees are not proven gone, ordered by number.

  The rows are those of a group, or of one number.
  """
  @spec living(Leash.Group.t() | :all | pos_integer()) :: [row()]
  def living(number) when is_integer(number) do
    case fetch(number) do
      {:ok, %{tree: tree} = row} when tree != :gone -> [row]
      _gone -> []
    end
  end

  def living(group),
    do: for(row <- all(), row.tree != :gone, Leash.Group.includes?(group, row.group), do: row)

  @doc "Returns number, name and group of each worker that has a name or a group."
  @spec named() :: [{pos_integer(), GenServer.name() | nil, Leash.Group.t() | nil}]
  def named do
    :ets.select(__MODULE__, [
      {{:"$1", :_, %{name: :"$2", group: :"$3"}, :_, :_, :_, :_, :_, :_},
       [{:orelse, {:"/=", :"$2", nil}, {:"/=", :"$3", nil}}], [{{:"$1", :"$2", :"$3"}}]}
    ])
  end

  @doc "Returns the rows that have one of these claims."
  @spec claimants([claim()]) :: [row()]
  def claimants(claims) do
    for claim <- claims, {_claim, number} <- :ets.lookup(@claims, claim), uniq: true, do: number
  rescue
    # There is no table while the application is stopped.
    ArgumentError -> []
  else
    numbers -> for number <- numbers, {:ok, row} <- [fetch(number)], do: row
  end

  @doc "Returns the row of a process, that of its present tree if it had others before."
  @spec of_process(pid()) :: {:ok, row()} | :error
  def of_process(pid) do
    rows =
      for entry <- :ets.match_object(__MODULE__, {:_, pid, :_, :_, :_, :_, :_, :_, :_}),
          do: row(entry)

    case Enum.find(rows, List.first(rows), &(&1.tree != :gone)) do
      nil -> :error
      row -> {:ok, row}
    end
  rescue
    ArgumentError -> :error
  end

  @doc """
  Returns whether a tree is on its way out.

  It was told to end, or its process has ended, or the owner whose end also ends that process.
  """
  @spec ending?(row()) :: boolean()
  def ending?(%{tree: :gone}), do: false
  def ending?(%{tree: :ending}), do: true
  def ending?(%{outlives: nil} = row), do: not Process.alive?(row.pid) or left_by_owner?(row)
  def ending?(_detached), do: false

  # The end of an owner reaches its worker and its supervisor as messages at the same time.
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

  @doc "Returns all rows, ordered by number."
  @spec all() :: [row()]
  def all do
    if exist?(),
      do: __MODULE__ |> :ets.tab2list() |> Enum.map(&row/1) |> Enum.sort_by(& &1.number),
      else: []
  rescue
    # The table ended with the application between the two calls.
    ArgumentError -> []
  end
end
