defmodule Leash.Detached do
  # Trees that outlive their VM on purpose (`on_exit: :detach`): by what name they are known, and finding them again.
  #
  # Nothing is kept in a file: name, run and number stand on the shim's own command line, and the shim lives as long as
  # its tree. See native/PROTOCOL.md, section 6, for what a process has to be in order to be believed.
  @moduledoc false

  alias Leash.{Native, OptionsError, Registry, Schema}

  # What the shim takes.
  @longest 200

  @typedoc "A living tree, as its shim describes it; `owner` is what is known of the VM that started it, `own` that this is us."
  @type tree :: %{
          name: binary(),
          run_id: Leash.RunId.t(),
          worker: pos_integer(),
          depth: 0..7,
          shim_pid: pos_integer(),
          start_ticks: non_neg_integer(),
          pidfs_inode: non_neg_integer() | nil,
          os_pid: pos_integer() | nil,
          owner_pid: pos_integer() | nil,
          owner: :alive | :gone | :unknown | atom(),
          own: boolean(),
          patience_ms: non_neg_integer() | nil,
          command: [binary()],
          age_ms: non_neg_integer()
        }

  @doc """
  The text by which a name is found by another VM, perhaps of another version of Elixir.
  """
  @spec text(GenServer.name() | String.t()) :: String.t()
  def text(name) when is_binary(name), do: name

  def text(name) do
    # Each of these has a default that cuts, breaks lines or depends on the version.
    inspect(name,
      limit: :infinity,
      printable_limit: :infinity,
      width: :infinity,
      charlists: :as_lists
    )
  end

  @doc "Whether a text can be a name."
  @spec text?(term()) :: boolean()
  def text?(text), do: Schema.text?(text) and byte_size(text) <= @longest

  @doc "What is wrong with the options of a worker that is to outlive its VM."
  @spec check(map()) :: :ok | {:error, OptionsError.t()}
  def check(options) do
    cond do
      options.name == nil or not text?(text(options.name)) ->
        refuse(:name, "a name of at most #{@longest} bytes, to find it again by,", options.name)

      not options.mark ->
        refuse(:mark, "true", false)

      options.stdin == :pipe ->
        refuse(:stdin, ":null or :open", :pipe)

      options.stdout == :output ->
        refuse(:stdout, "{:file, path} or :null", :output)

      options.stderr == :output ->
        refuse(:stderr, "{:file, path}, :null or :stdout", :output)

      is_struct(options.ready, Regex) ->
        refuse(:ready, "no regex, since no output comes here,", options.ready)

      true ->
        :ok
    end
  end

  defp refuse(key, expected, value),
    do: Schema.error(key, expected <> " beside on_exit: :detach", value)

  @doc "All of this user's, by the number of their shims."
  @spec all() :: {:ok, [tree()], complete? :: boolean()} | {:error, term()}
  def all do
    with {:ok, %{trees: trees, complete: complete?}} <- Native.detached(),
         do: {:ok, Enum.sort_by(trees, & &1.shim_pid), complete?}
  end

  @doc """
  The one of a name that this VM may take over.
  """
  @spec find(binary()) ::
          {:ok, tree()}
          | {:error,
             :not_found
             | :incomplete
             | {:ambiguous, [pos_integer()]}
             | {:detached_elsewhere, map()}
             | term()}
  def find(text) do
    with {:ok, trees, complete?} <- all() do
      case Enum.filter(trees, &(&1.name == text)) do
        [] -> {:error, if(complete?, do: :not_found, else: :incomplete)}
        [tree] -> if elsewhere?(tree), do: {:error, elsewhere(tree)}, else: {:ok, tree}
        several -> {:error, {:ambiguous, Enum.map(several, &(&1.os_pid || &1.shim_pid))}}
      end
    end
  end

  # Whether it lives cannot always be told; then nobody takes its worker away.
  defp elsewhere?(tree),
    do: tree.owner_pid != nil and not tree.own and tree.owner in [:alive, :unknown]

  defp elsewhere(tree),
    do: {:detached_elsewhere, Map.take(tree, [:owner_pid, :os_pid, :shim_pid, :run_id, :worker])}

  @doc "`Leash.detached/0`."
  @spec list() :: [map()]
  def list do
    case all() do
      {:ok, trees, _complete?} -> Enum.map(trees, &listed/1)
      {:error, _no_proc} -> []
    end
  end

  defp listed(tree) do
    tree
    |> Map.take([:name, :run_id, :worker, :os_pid, :shim_pid, :owner_pid])
    |> Map.put(:owner_alive?, alive?(tree.owner))
  end

  defp alive?(:alive), do: true
  defp alive?(:gone), do: false
  defp alive?(_unknown), do: nil

  @doc "A pidfd of the shim, if it still is that of the tree."
  @spec open(tree()) :: {:ok, Native.fd()} | {:error, term()}
  def open(tree) do
    Native.detached_open(
      tree.shim_pid,
      tree.start_ticks,
      tree.pidfs_inode,
      tree.run_id,
      tree.worker
    )
  end

  @doc "Whether a row of the table is this very tree's."
  @spec of?(Registry.row(), tree(), Leash.RunId.t()) :: boolean()
  def of?(%{outlives: nil}, _tree, _own), do: false

  def of?(%{outlives: :own, number: number}, tree, own),
    do: {own, number} == {tree.run_id, tree.worker}

  def of?(%{outlives: other}, tree, _own),
    do: {other.run_id, other.worker, other.shim_pid} == {tree.run_id, tree.worker, tree.shim_pid}
end
