defmodule Leash.Identity do
  alias Leash.Identity.{Accounts, Capability, Getent}
  alias Leash.{OptionsError, Schema}

  # The limit of the shim.
  @most_groups 32

  @id 0..0xFFFFFFFE
  @id_spec quote(do: String.t() | non_neg_integer())

  @keys [
    user: [
      type: {:or, [nil, {:custom, __MODULE__, :name, []}]},
      type_doc: "a name, or a number as an integer",
      type_spec: quote(do: unquote(@id_spec) | nil),
      doc:
        "The user of the program, see `Leash.Identity`. It gets the user's own group and " <>
          "supplementary groups, and `HOME`, `USER` and `LOGNAME`."
    ],
    gid: [
      type: {:or, [nil, {:custom, __MODULE__, :name, []}]},
      type_doc: "a name, or a number as an integer",
      type_spec: quote(do: unquote(@id_spec) | nil),
      doc: "The group of the program, instead of the user's own."
    ],
    groups: [
      type: {:or, [nil, {:custom, __MODULE__, :names, []}]},
      type_doc: "a list of at most #{@most_groups} names, or numbers as integers",
      type_spec: quote(do: [unquote(@id_spec)] | nil),
      doc: "The supplementary groups of the program, instead of the user's."
    ],
    no_new_privs: [
      type: :boolean,
      default: false,
      doc: "`true`: no program that it executes gets more rights, not even a set-user-ID one."
    ],
    capabilities: [
      type:
        {:or,
         [
           nil,
           keyword_list: [
             keep: [
               type: {:custom, Capability, :list, []},
               type_doc: Capability.expected(),
               type_spec: quote(do: [atom()]),
               required: true,
               doc: "Those that the program has, and no others."
             ]
           ]
         ]},
      type_doc: "a keyword list of :keep",
      doc: "The capabilities of the program, see `Leash.Identity`."
    ],
    umask: [
      type: {:or, [nil, {:in, 0..0o777}]},
      type_doc: "a mask from 0 to 0o777",
      type_spec: quote(do: 0..511 | nil),
      doc:
        "The file mode creation mask, such as `0o027` (in Erlang `8#027`). A number without " <>
          "that prefix is decimal."
    ]
  ]

  @moduledoc """
  A program as another user, with fewer rights than the VM has.

      {Leash.Worker,
       command: "thumbnailer",
       user: "media",
       no_new_privs: true,
       capabilities: [keep: [:net_bind_service]],
       umask: 0o027}

  `Leash.Worker`, `Leash.cmd/3`, the streams and `Leash.open_port/3` have these options:

  #{Schema.docs(Schema.new(@keys))}
  The rights change between fork and exec, in the order groups, group, user. The program then
  opens the files of `:stdout` and `:stderr` and enters `:cd` with its new rights. Files with
  `rotate:` or `reopen:` are the VM's own, and for a port the VM has entered `:cd` before. The
  shim keeps the VM's rights, and so do commands of the ladder.

  ## Users and groups

  Names come from `/etc/passwd` and `/etc/group`, and otherwise from getent(1), which gets two
  seconds. An unknown name is a `Leash.OptionsError`. A number is taken as it is. If no account
  has the number of `:user`, then `:gid` is required.

  `:user` alone means the account's own group as the group. The supplementary groups are the own
  one and all groups that list the account, see initgroups(3). `:gid` replaces the group, and
  `:groups` the supplementary ones. Without `:user`, the supplementary groups stay the VM's unless
  `:groups` is given.

  `HOME`, `USER` and `LOGNAME` are the account's unless `:env` has them. If no account has the
  number, then they are unset.

  The program cannot open its own pipes and terminal by name, such as `/dev/stdout`: they belong
  to the VM's user. `/dev/tty` can be opened.

  ## Capabilities

  With `capabilities: [keep: names]` the permitted, effective, inheritable and ambient sets of the
  program hold these names and no others. The bounding set stays as it is, as with setpriv(1)
  without its `--bounding-set`. So a set-user-ID program regains rights unless `:no_new_privs` is
  true. Root gets all of the bounding set at exec, so the option needs another user.

  Without the option, a program of another user has no permitted, effective and ambient
  capabilities. The inheritable and bounding sets stay.

  A program that keeps `:sys_resource` can remove the mark by which a later sweep finds it.

  ## Errors

  A change that the kernel refuses fails the start, and nothing is left behind. The reasons are
  those of `Leash.Worker.start_link/1`. `Leash.cmd/3` and the streams raise `Leash.Error` with
  them. A port's program exits with 125, and stderr has the reason.

    * `{:ids, :eperm}` - the VM has no `CAP_SETUID` or `CAP_SETGID`. An ordinary VM cannot change
      to any user, not even to its own
    * `{:ids, :einval}` - this user namespace does not have the id
    * `{:kill, :eperm}` - the VM has no `CAP_KILL`. It could start the program, but not end it
    * `{:capabilities, :eperm}` - the VM does not have a capability to keep
    * `{:capabilities, :einval}` - the program's user is root

  `Leash.capabilities/0` says what this VM can do: `:set_user` and `:own_capabilities`.
  """

  # In the order of the shim's help.
  @names Keyword.keys(@keys)

  @doc false
  # The options.
  @spec options() :: keyword()
  def options, do: @keys

  @doc false
  # The names of the options.
  @spec keys() :: [atom()]
  def keys, do: @names

  @doc false
  @spec name(term()) :: {:ok, String.t() | non_neg_integer()} | {:error, String.t()}
  def name(name) do
    if name?(name),
      do: {:ok, name},
      else: {:error, @keys[:user][:type_doc] <> meant(name)}
  end

  @doc false
  @spec names(term()) :: {:ok, [String.t() | non_neg_integer()]} | {:error, String.t()}
  def names(names) do
    if is_list(names) and not List.improper?(names) and length(names) <= @most_groups and
         Enum.all?(names, &name?/1),
       do: {:ok, names},
       else: {:error, @keys[:groups][:type_doc]}
  end

  defp meant(name) when is_atom(name) and name != nil, do: ~s(, did you mean "#{name}"?)

  defp meant(name) do
    if is_binary(name) and name =~ ~r/\A\d+\z/, do: ", did you mean #{name}?", else: ""
  end

  # passwd(5): a colon and a line feed end a name. getent(1) takes a leading dash for an option,
  # and digits for a number.
  defp name?(name) when is_binary(name),
    do: name =~ ~r/\A(?!-)[^:\n\0]+\z/ and not (name =~ ~r/\A\d+\z/)

  defp name?(number), do: is_integer(number) and number in @id

  @doc false
  # Finds the ids of names. The result has the shim's arguments as `:identity`, and the user's
  # variables in `:env`.
  @spec resolve(map()) :: {:ok, map()} | {:error, OptionsError.t()}
  def resolve(options) do
    with {:ok, account} <- account(options.user),
         {:ok, gid} <- gid(options, account),
         {:ok, groups} <- groups(options, account),
         :ok <- selectable(options.capabilities, account) do
      arguments =
        List.flatten([
          if(account, do: "--uid=#{account.uid}", else: []),
          if(gid, do: "--gid=#{gid}", else: []),
          if(groups, do: "--groups=" <> Enum.join(groups, ","), else: []),
          capabilities(options.capabilities),
          if(options.no_new_privs, do: "--no-new-privs", else: []),
          if(options.umask, do: "--umask=" <> Integer.to_string(options.umask, 8), else: [])
        ])

      env = variables(account, options.env) ++ options.env
      {:ok, Map.merge(options, %{identity: arguments, env: env})}
    end
  end

  defp account(nil), do: {:ok, nil}

  defp account(user) do
    case Accounts.account(user) do
      {:ok, account} -> {:ok, account}
      # The kernel asks no database.
      {:error, _unknown} when is_integer(user) -> {:ok, %{uid: user, gid: nil, name: nil}}
      {:error, why} -> unknown(:user, "a user", user, why, "")
    end
  end

  defp gid(%{gid: nil}, nil), do: {:ok, nil}

  defp gid(%{gid: nil, user: user}, %{gid: nil}),
    do: Schema.error(:gid, "a group beside user: #{user}, a number that no account has", nil)

  defp gid(%{gid: nil}, account), do: {:ok, account.gid}
  defp gid(%{gid: gid}, _account), do: group(gid, :gid, gid)

  defp groups(%{groups: nil}, nil), do: {:ok, nil}
  defp groups(%{groups: nil}, %{name: nil}), do: {:ok, []}

  defp groups(%{groups: nil, user: user}, account) do
    case Accounts.groups(account) do
      {:ok, groups} when length(groups) <= @most_groups ->
        {:ok, groups}

      {:ok, groups} ->
        expected = "a user of at most #{@most_groups} groups (it has #{length(groups)})"
        Schema.error(:user, expected, user, "`groups:` selects some of them")

      {:error, why} ->
        unknown(:user, "a user with groups", user, why, "")
    end
  end

  defp groups(%{groups: names}, _account) do
    Enum.reduce_while(Enum.reverse(names), {:ok, []}, fn name, {:ok, gids} ->
      case group(name, :groups, names) do
        {:ok, gid} -> {:cont, {:ok, [gid | gids]}}
        wrong -> {:halt, wrong}
      end
    end)
  end

  defp group(gid, _key, _value) when is_integer(gid), do: {:ok, gid}

  defp group(name, key, value) do
    blame = if value == name, do: "", else: "; #{inspect(name)} is none"
    with {:error, why} <- Accounts.group(name), do: unknown(key, "a group", value, why, blame)
  end

  defp unknown(key, what, value, :unknown, blame),
    do: Schema.error(key, what <> " that this machine knows" <> blame, value)

  defp unknown(key, what, value, :timeout, blame) do
    expected = "#{what} that getent(1) finds within #{Getent.most_ms()} ms"
    Schema.error(key, expected <> blame, value)
  end

  defp selectable([_ | _] = capabilities, %{uid: 0}) do
    expected = "nothing beside user: root, which gets all capabilities at exec"
    Schema.error(:capabilities, expected, capabilities)
  end

  defp selectable(_capabilities, _account), do: :ok

  defp capabilities(nil), do: []
  defp capabilities(keep: names), do: "--capabilities=" <> Enum.join(names, ",")

  defp variables(nil, _env), do: []

  defp variables(account, env) do
    given = for {name, _value} <- env, do: name

    for {name, value} <- [
          {"HOME", account[:home]},
          {"USER", account.name},
          {"LOGNAME", account.name}
        ],
        name not in given,
        do: {name, if(value && String.valid?(value), do: value)}
  end
end
